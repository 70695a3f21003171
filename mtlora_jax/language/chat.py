"""Chats as prompts: the template that a tokenizer brings, and the plain form for those that bring none."""

from collections.abc import Sequence
from typing import Any

from mtlora_jax.errors import UserError

Messages = Sequence[tuple[str, str]]
"""`(role, content)` of every turn, the roles being `system`, `user` and `assistant`."""


def plain(messages: Messages) -> str:
    """The prompt of a chat without a template, up to the assistant's next turn."""
    turns = "".join(f"### {role.capitalize()}:\n{content}\n\n" for role, content in messages)
    return f"{turns}### Assistant:\n"


class ChatTemplate:
    """A tokenizer's own template, which is a program in Jinja: it runs in a sandbox. It pickles.

    Args:
      source: the program.
      tokens: names and texts of special tokens, `bos_token` and the like.
      where: what messages call it.
    """

    def __init__(self, source: str, tokens: dict[str, str], where: str):
        self.source, self.tokens, self.where = source, tokens, where

    def render(self, messages: Messages) -> str:
        """The prompt of a chat, up to the assistant's next turn.

        Raises:
          UserError: the template fails or refuses the chat.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> Any:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            template = environment.from_string(self.source)
            return template.render(messages=turns, add_generation_prompt=True, tools=None, **self.tokens)
        except Exception as error:  # a program of somebody else's
            raise UserError(
                f"the chat template of {self.where} fails ({' '.join(str(error).split())}); "
                "--chat_template=False writes chats in a plain form"
            ) from None

"""What one example of a text task says, before any template or tokenizer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
      task: its task's name.
      instruction: what is asked.
      input: further context, or nothing.
      output: what the model is to write.
      answer: what scoring compares a prediction with.
      options: outputs to choose from, where there is a choice.
      prompt: the whole prompt as it stands; no template is applied.
      messages: the turns of a chat before the output, `(role, content)`; a tokenizer's chat template is applied to
        them, and `prompt` is what they are where there is none.
      form: in which form it is asked: `instruction`, `prompt`, `chat`, or `pair`.
    """

    task: str
    instruction: str
    input: str
    output: str
    answer: str
    options: tuple[str, ...] = ()
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    form: Literal["instruction", "prompt", "chat", "pair"] = "instruction"

"""How a row becomes a prompt: templates as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtlora_jax.language.rows import Row

TASK = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
INDENT = " " * 16


@dataclass(frozen=True)
class Template:
    """Prompts of training and of evaluation, with and without an input; the output follows at once.

    Attributes:
      train, train_input: format strings of `{instruction}` and `{input}`.
      evaluate, evaluate_input: likewise.
      joint: prompt and output are tokenized in one go, so that a token may hold the end of one and the start of the
        other, as published; else each for itself, so that training sees the tokens that decoding starts from.
    """

    train: str
    train_input: str
    evaluate: str
    evaluate_input: str
    joint: bool = False

    def prompt(self, row: Row, evaluating: bool = False) -> str:
        """What precedes the row's output."""
        if row.prompt is not None:
            return row.prompt
        plain, with_input = (self.evaluate, self.evaluate_input) if evaluating else (self.train, self.train_input)
        return (with_input if row.input else plain).format(instruction=row.instruction, input=row.input)


def _published(header: str, between: str, *sections: str) -> str:
    body = f"{between}\n".join(f"{INDENT}### {name}:\n{INDENT}{{{name.lower()}}}\n" for name in sections)
    return f"{header}\n\n{body}{between}\n{INDENT}### Response:\n{INDENT}"


WITH_INPUT = f"{TASK}, paired with an input that provides further context. {REQUEST}"
PLAIN = "### Instruction:\n{instruction}\n\n### Response:\n"
PLAIN_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"

TEMPLATES: Mapping[str, Template] = {
    "default": Template(PLAIN, PLAIN_INPUT, PLAIN, PLAIN_INPUT),
    # Source indentation has leaked into the published strings, and training and evaluation differ. Evaluation never
    # passes the input on.
    "published": Template(
        train=_published(f"{TASK}. {REQUEST}  ", INDENT, "Instruction"),
        train_input=_published(f"{WITH_INPUT} ", INDENT, "Instruction", "Input"),
        evaluate=_published(f"{TASK}. {REQUEST} ", "", "Instruction"),
        evaluate_input=_published(f"{TASK}. {REQUEST} ", "", "Instruction"),
        joint=True,
    ),
}

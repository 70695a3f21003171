"""Rows as tokens: the prompt is read, the output and the end of text are learned."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mtlora_jax.engine.tables import text_table
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import Template
from mtlora_jax.language.tokenizer import Tokenizer

Truncation = Literal["keep_answer", "published"]
Fate = Literal["whole", "prompt cut", "answer cut", "dropped"]
FATES: tuple[Fate, ...] = ("whole", "prompt cut", "answer cut", "dropped")


@dataclass(frozen=True)
class Encoded:
    """One example.

    Attributes:
      tokens: int32 `[n]`.
      learned: bool `[n]`, which tokens the model is to predict.
      fate: what the cutoff took.
    """

    tokens: np.ndarray
    learned: np.ndarray
    fate: Fate = "whole"


def encode_prompt(row: Row, tokenizer: Tokenizer, template: Template, evaluating: bool = False) -> list[int]:
    """Ids of a row's prompt, the beginning of text included."""
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    return start + tokenizer.encode(template.prompt(row, evaluating))


def encode(
    row: Row,
    tokenizer: Tokenizer,
    template: Template,
    cutoff: int,
    truncation: Truncation = "keep_answer",
    learn_prompt: bool = False,
) -> Encoded | None:
    """A training example of at most `cutoff` tokens.

    Args:
      truncation: `keep_answer` cuts the beginning of a prompt that is too long; `published` cuts the end of the
        whole, answer first, and such an example gets no end of text.
      learn_prompt: the prompt is learned too.

    Returns:
      None where nothing of the output would be left to learn.
    """
    prompt = encode_prompt(row, tokenizer, template)
    if template.joint:
        whole = prompt[: tokenizer.bos is not None] + tokenizer.encode(template.prompt(row) + row.output)
        # As published: however the seam is tokenized, as many tokens as the prompt alone has are masked.
        prompt, output = whole[: len(prompt)], whole[len(prompt) :]
    else:
        output = tokenizer.encode(row.output)
    ended = [*output, tokenizer.eos]
    fate: Fate = "whole"
    if truncation == "published":
        kept = (prompt + output)[:cutoff]
        if len(kept) < len(prompt) + len(output):
            fate = "answer cut"
        tokens = kept if len(kept) == cutoff or kept[-1] == tokenizer.eos else [*kept, tokenizer.eos]
        begin = len(prompt)
    else:
        room = cutoff - len(ended)
        first = prompt[: tokenizer.bos is not None]
        if room < len(first):
            return None
        if len(prompt) > room:
            rest = room - len(first)
            prompt, fate = first + prompt[len(prompt) - rest :], "prompt cut"
        tokens, begin = prompt + ended, len(prompt)
    if begin >= len(tokens) and not learn_prompt:
        return None
    learned = np.arange(len(tokens)) >= (0 if learn_prompt else begin)
    return Encoded(np.array(tokens, np.int32), learned, fate)


@dataclass
class Report:
    """What the cutoff did to the examples of every task.

    Attributes:
      counts: `{task: {fate: rows}}`.
    """

    counts: dict[str, Counter] = field(default_factory=dict)

    def count(self, task: str, fate: Fate) -> None:
        self.counts.setdefault(task, Counter())[fate] += 1

    @property
    def lossless(self) -> bool:
        return all(set(of) <= {"whole"} for of in self.counts.values())

    def table(self) -> str:
        """Rows by task and fate."""
        return text_table(("task", *FATES), [(task, *(of[fate] for fate in FATES)) for task, of in self.counts.items()])


def encode_all(rows: Iterable[Row], report: Report, **how: object) -> Iterator[tuple[str, Encoded]]:
    """`(task, example)` of every row that keeps something to learn; `how` is what `encode` takes."""
    for row in rows:
        example = encode(row, **how)
        report.count(row.task, "dropped" if example is None else example.fate)
        if example is not None:
            yield row.task, example

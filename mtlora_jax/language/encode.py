"""Rows as tokens: the prompt is read, the output and the end of text count in the loss."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import Template
from mtlora_jax.language.tokenizer import Tokenizer
from mtlora_jax.listing import text_table

Truncation = Literal["keep_answer", "published"]
Outcome = Literal["whole", "prompt cut", "answer cut", "dropped"]
OUTCOMES: tuple[Outcome, ...] = ("whole", "prompt cut", "answer cut", "dropped")


@dataclass(frozen=True)
class Encoded:
    """One example.

    Attributes:
      tokens: int32 `[n]`.
      loss_mask: bool `[n]`, which tokens the model is to predict.
      outcome: what the cutoff did to it.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    outcome: Outcome = "whole"


def encode_prompt(row: Row, tokenizer: Tokenizer, template: Template, evaluating: bool = False) -> list[int]:
    """Ids of a row's prompt, the beginning of text included; chats in the tokenizer's own template, if it has one."""
    return begun(tokenizer.encode(prompt_text(row, tokenizer, template, evaluating)), tokenizer)


def prompt_text(row: Row, tokenizer: Tokenizer, template: Template, evaluating: bool = False) -> str:
    """What precedes a row's output."""
    if row.messages and tokenizer.chat_template is not None:
        return tokenizer.chat_template.render(row.messages)
    return template.prompt(row, evaluating)


def begun(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Ids with the beginning of text before them, where the tokenizer wants one and they lack it."""
    return ids if tokenizer.bos is None or ids[:1] == [tokenizer.bos] else [tokenizer.bos, *ids]


def encode(
    row: Row,
    tokenizer: Tokenizer,
    template: Template,
    cutoff: int,
    truncation: Truncation = "keep_answer",
    loss_on_prompt: bool = False,
) -> Encoded | None:
    """A training example of at most `cutoff` tokens.

    Args:
      truncation: `keep_answer` cuts the beginning of a prompt that is too long; `published` cuts the end of the
        whole, answer first, and such an example gets no end of text.
      loss_on_prompt: the prompt counts in the loss too.

    Returns:
      None where nothing of the output would be left to count in the loss.
    """
    prompt = encode_prompt(row, tokenizer, template)
    if template.joint:
        whole = begun(tokenizer.encode(prompt_text(row, tokenizer, template) + row.output), tokenizer)
        # As published: however the seam is tokenized, as many tokens as the prompt alone has are masked.
        prompt, output = whole[: len(prompt)], whole[len(prompt) :]
    else:
        output = tokenizer.encode(row.output)
    ended = output if output[-1:] == [tokenizer.eos] else [*output, tokenizer.eos]
    outcome: Outcome = "whole"
    if truncation == "published":
        kept = (prompt + output)[:cutoff]
        if len(kept) < len(prompt) + len(output):
            outcome = "answer cut"
        tokens = kept if len(kept) == cutoff or kept[-1] == tokenizer.eos else [*kept, tokenizer.eos]
        begin = len(prompt)
    else:
        room = cutoff - len(ended)
        first = prompt[: tokenizer.bos is not None]
        if room < len(first):
            return None
        if len(prompt) > room:
            rest = room - len(first)
            prompt, outcome = first + prompt[len(prompt) - rest :], "prompt cut"
        tokens, begin = prompt + ended, len(prompt)
    if begin >= len(tokens) and not loss_on_prompt:
        return None
    loss_mask = np.arange(len(tokens)) >= (0 if loss_on_prompt else begin)
    return Encoded(np.array(tokens, np.int32), loss_mask, outcome)


@dataclass
class Report:
    """What the cutoff did to the examples of every task.

    Attributes:
      counts: `{task: {outcome: rows}}`.
    """

    counts: dict[str, Counter] = field(default_factory=dict)

    def count(self, task: str, outcome: Outcome) -> None:
        self.counts.setdefault(task, Counter())[outcome] += 1

    @property
    def lossless(self) -> bool:
        return all(set(of) <= {"whole"} for of in self.counts.values())

    def table(self) -> str:
        """Rows by task and outcome."""
        return text_table(
            ("task", *OUTCOMES), [(task, *(of[outcome] for outcome in OUTCOMES)) for task, of in self.counts.items()]
        )


def encode_rows(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    template: Template,
    cutoff: int,
    truncation: Truncation = "keep_answer",
    loss_on_prompt: bool = False,
) -> tuple[list[tuple[str, Encoded]], Report]:
    """`(task, example)` of every row that keeps a token to count in the loss, and what the cutoff did to all rows.

    Arguments as for `encode`.
    """
    examples, report = [], Report()
    for row in rows:
        example = encode(row, tokenizer, template, cutoff, truncation, loss_on_prompt)
        report.count(row.task, "dropped" if example is None else example.outcome)
        if example is not None:
            examples.append((row.task, example))
    return examples, report

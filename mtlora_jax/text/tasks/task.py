"""One text task: what may be answered, how an answer is read out of a text, and what metrics it is judged by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mtlora_jax.text.tasks.metrics import METRICS, same

Scorer = Literal["words", "strict", "reference"]
RESPONSE = "### Response:"
NUMBER = r"(?:(?<![\w.])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
"""Digits, with thousands set off by commas or not; a minus behind a digit takes away and belongs to no number."""


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: the task's name.
      answers: words it is answered with, of which the last is the positive one; none for a number.
      metrics: names in `METRICS`; the first stands for the task.
      digits: the reference's looser scorer takes a bare digit for an answer.
      extracted: which of the answers in a text counts, `first` or `last`; empty: the first word, the last number.
      max_new_tokens: longest answer that is decoded; 32 as published.
    """

    name: str
    answers: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    digits: bool = False
    extracted: Literal["", "first", "last"] = ""
    max_new_tokens: int = 32

    def extract(self, text: str, scorer: Scorer = "words") -> str:
        """The answer in a text, or nothing; numbers without the commas of thousands.

        Args:
          scorer: `words` takes whole words, the longest of those that begin at one place, and a blank or a hyphen for
            an underscore. The reference's scripts take parts of words, and the answer that is listed first: `strict`
            as those that score LoRA and DoRA do; `reference` falls back on the first digit from 1 to 4 where a task
            has `digits`, as those do that score MTL-LoRA, MoELoRA and MultiLoRA.
        """
        if scorer != "words" and self.answers:
            found = re.search("|".join(map(re.escape, self.answers)), text)
            if found is None and self.digits and scorer == "reference":
                found = re.search("[1-4]", text)
            return found.group() if found else ""
        found = list(re.finditer(self._pattern, text))
        if not found:
            return ""
        chosen = found[-1 if (self.extracted or ("first" if self.answers else "last")) == "last" else 0].group()
        if not self.answers:
            return chosen.replace(",", "")
        return next(answer for answer in self._longest_first if re.fullmatch(_spelt(answer), chosen))

    @property
    def _longest_first(self) -> list[str]:
        return sorted(self.answers, key=len, reverse=True)

    @property
    def _pattern(self) -> str:
        words = "|".join(map(_spelt, self._longest_first))
        return rf"(?<!\w)(?:{words})(?!\w)" if self.answers else NUMBER

    def right(self, prediction: str, answer: str, scorer: Scorer = "words") -> bool:
        """Whether a prediction is the answer, or the same number to a thousandth; `reference` also takes any part of
        it."""
        if not self.answers and same(prediction, answer):
            return True
        return prediction == answer or (scorer == "reference" and prediction != "" and prediction in answer)

    def reads(self, output: str, answer: str) -> bool:
        """Whether an output that is as it should be is read as its own answer."""
        return "accuracy" not in self.metrics or self.right(self.extract(response(output)), answer)

    def metrics_of(self, predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        """The task's metrics."""
        return {name: METRICS[name](predicted, true, self.answers) for name in self.metrics}


def _spelt(answer: str) -> str:
    return re.escape(answer).replace("_", r"[_\ \-]")


def response(text: str) -> str:
    """What follows the first response heading of a decoded text, up to the next."""
    return text.split(RESPONSE)[1].strip() if RESPONSE in text else text.strip()

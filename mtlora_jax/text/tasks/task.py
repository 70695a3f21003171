"""One text task: what may be answered, how an answer is read out of a text, and what metrics it is judged by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mtlora_jax.text.tasks.metrics import METRICS

Scorer = Literal["strict", "reference"]
RESPONSE = "### Response:"
NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: the task's name.
      answers: words it is answered with, of which the last is the positive one; none for a number.
      metrics: names in `METRICS`; the first stands for the task.
      digits: the reference's looser scorer takes a bare digit for an answer.
    """

    name: str
    answers: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    digits: bool = False

    def extract(self, text: str, scorer: Scorer = "strict") -> str:
        """The first answer in a text, or nothing.

        Args:
          scorer: `reference` falls back on the first digit from 1 to 4 where a task has `digits`, as the scripts that
            score MTL-LoRA, MoELoRA and MultiLoRA do, and those that score LoRA and DoRA do not.
        """
        pattern = "|".join(map(re.escape, self.answers)) or NUMBER
        found = re.search(pattern, text)
        if found is None and self.digits and scorer == "reference":
            found = re.search("[1-4]", text)
        return found.group() if found else ""

    def right(self, prediction: str, answer: str, scorer: Scorer = "strict") -> bool:
        """Whether a prediction is the answer; `reference` also takes any part of it."""
        return prediction == answer or (scorer == "reference" and prediction != "" and prediction in answer)

    def metrics_of(self, predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        """The task's metrics."""
        return {name: METRICS[name](predicted, true, self.answers) for name in self.metrics}


def response(text: str) -> str:
    """What follows the first response heading of a decoded text, up to the next."""
    return text.split(RESPONSE)[1].strip() if RESPONSE in text else text.strip()

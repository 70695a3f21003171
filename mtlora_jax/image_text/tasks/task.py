"""One image-text task: what its examples say, how its loss is averaged, and what its predictions are scored by.

A task is a file of functions beside this one, and a row in `tasks.TASKS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mtlora_jax.image_text.datasets.questions import Question

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: the task's name.
      prefix: what its texts begin with.
      input_limit, target_limit: longest text and target in ids, both ends included; 0 for no limit.
      images: pictures of an example.
      words: the words it chooses from by their logits, the first being the one that has to be likelier; none for a
        task whose answers are written.
      loss: what its loss is a mean over: `rows`, the mean over tokens of each; `scores`, the same times the score of
        the answer that is learnt; `tokens`, all tokens of the batch alike.
      score: the metric that stands for it.
      measure: `(predictions, questions, fitted) -> {name: [B, ...]}`, statistics that add up.
      compute: `sums of those -> {metric: value}`.
      fit: what `measure` needs to know of the whole held-out set.
      constant: `training questions -> prediction`, the one that scores best everywhere.
      file: `(questions, predictions) -> (name, text)`, the predictions as the task's own server takes them.
    """

    name: str
    prefix: str
    input_limit: int
    target_limit: int
    loss: Literal["rows", "scores", "tokens"]
    score: str
    measure: Callable[[Sequence[str], Sequence[Question], Any], dict[str, np.ndarray]]
    compute: Callable[[Sums], dict[str, float]]
    constant: Callable[[Sequence[Question]], str]
    file: Callable[[Sequence[Question], Sequence[str]], tuple[str, str]]
    images: int = 1
    words: tuple[str, ...] = ()
    fit: Callable[[Sequence[Question]], Any] = lambda questions: None

    def target(self, question: Question, rng: Any = None) -> tuple[str, float]:
        """An answer to learn and its score: the best one, or one drawn in proportion to the scores.

        Args:
          rng: a generator with `multinomial`, where one is to be drawn.
        """
        if not question.answers:
            return "", 0.0
        answers, scores = zip(*question.answers.items(), strict=True)
        if rng is None:
            at = int(np.argmax(scores))
        else:
            at = int(rng.multinomial(1, np.array(scores, np.float64) / sum(scores)).argmax())
        return answers[at], float(scores[at])

    def metrics(self, predictions: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """The metrics of a whole set."""
        measured = self.measure(predictions, questions, self.fit(questions))
        return self.compute({name: np.asarray(rows, np.float64).sum(0) for name, rows in measured.items()})


def mean(sums: Sums, of: str, count: str) -> float:
    """`sums[of] / sums[count]`; NaN of nothing."""
    return float(sums[of] / sums[count]) if sums[count] else float("nan")

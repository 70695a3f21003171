"""NLVR2: whether a statement about two pictures is true."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks.gqa import compute, measure
from mtlora_jax.image_text.tasks.task import Task

WORDS = ("true", "false")


def consistency(predictions: Sequence[str], questions: Sequence[Question]) -> float:
    """The share of groups of which every question is answered right."""
    groups: dict[str, bool] = {}
    for prediction, question in zip(predictions, questions, strict=True):
        groups[question.group] = groups.get(question.group, True) and prediction in question.answers
    return float(np.mean(list(groups.values()))) if groups else float("nan")


def constant(questions: Sequence[Question]) -> str:
    counts = Counter(answer for question in questions for answer in question.answers)
    return max(WORDS, key=counts.__getitem__)


def file(questions: Sequence[Question], predictions: Sequence[str]) -> tuple[str, str]:
    """As NLVR2's script takes it."""
    lines = [f"{q.id},{p == WORDS[0]}\n" for q, p in zip(questions, predictions, strict=True)]
    return "nlvr_submit.csv", "".join(lines)


TASK = Task("nlvr", "nlvr: ", 0, 0, "rows", "accuracy", measure, compute, constant, file, images=2, words=WORDS)

"""GQA: one answer, to the letter."""

import json
from collections.abc import Sequence

import numpy as np

from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks import vqa
from mtlora_jax.image_text.tasks.task import Sums, Task, mean


def measure(predictions: Sequence[str], questions: Sequence[Question], fitted: None) -> dict[str, np.ndarray]:
    right = np.array([q.answers.get(p, 0.0) for p, q in zip(predictions, questions, strict=True)])
    return {"right": right, "n": np.ones(len(right))}


def compute(sums: Sums) -> dict[str, float]:
    return {"accuracy": mean(sums, "right", "n")}


def file(questions: Sequence[Question], predictions: Sequence[str]) -> tuple[str, str]:
    """As GQA's server takes it."""
    records = [{"questionId": q.id, "prediction": p} for q, p in zip(questions, predictions, strict=True)]
    return "gqa_predict.json", json.dumps(records)


# The prefix is misspelt as published: pretrained adapters know it so.
TASK = Task("gqa", "gpa: ", 20, 0, "rows", "accuracy", measure, compute, vqa.constant, file)

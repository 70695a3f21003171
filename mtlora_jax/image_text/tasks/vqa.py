"""VQAv2: an answer of a few words, ten annotators' answers to compare it with."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks.answers import soft_accuracy
from mtlora_jax.image_text.tasks.task import Sums, Task, mean


def measure(predictions: Sequence[str], questions: Sequence[Question], fitted: None) -> dict[str, np.ndarray]:
    """The soft accuracy of each, the training score of the answer as it is written, and which are common ones."""
    soft = np.array([soft_accuracy(p, q.references) for p, q in zip(predictions, questions, strict=True)])
    label = np.array([q.answers.get(p, 0.0) for p, q in zip(predictions, questions, strict=True)])
    # What a set does not say counts in both halves, as published.
    common, rare = (np.array([q.is_common in (None, half) for q in questions]) for half in (True, False))
    found = {"soft": soft, "label": label, "n": np.ones(len(soft)), "common": common * soft, "common_n": common}
    return {
        **found,
        "rare": rare * soft,
        "rare_n": rare,
        "told": np.array([q.is_common is not None for q in questions]),
    }


def compute(sums: Sums) -> dict[str, float]:
    halves = {name: mean(sums, name, f"{name}_n") for name in ("common", "rare") if sums["told"]}
    return {"accuracy": mean(sums, "soft", "n"), "label_score": mean(sums, "label", "n"), **halves}


def constant(questions: Sequence[Question]) -> str:
    """The answer with the highest scores together."""
    scores: Counter[str] = Counter()
    for question in questions:
        scores.update(question.answers)
    return max(scores, key=scores.__getitem__, default="")


def file(questions: Sequence[Question], predictions: Sequence[str]) -> tuple[str, str]:
    """As VQA's server takes it."""
    records = [{"question_id": number(q.id), "answer": p} for q, p in zip(questions, predictions, strict=True)]
    return "vqa_predict.json", json.dumps(records)


def number(name: str) -> int | str:
    return int(name) if name.isdigit() else name


TASK = Task("vqa", "vqa: ", 20, 10, "scores", "accuracy", measure, compute, constant, file)

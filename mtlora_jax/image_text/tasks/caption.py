"""COCO captions: a description, compared with several of people."""

import json
from collections.abc import Sequence

import numpy as np

from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks.ngrams import Frequencies, bleu, bleu_statistics, cider, frequencies
from mtlora_jax.image_text.tasks.task import Sums, Task, mean
from mtlora_jax.image_text.tasks.vqa import number

CANDIDATES, SCORED = 40, 60
"""Training captions that the constant predictor chooses from, and pictures that it is scored on."""


def fit(questions: Sequence[Question]) -> Frequencies:
    """Rarity of n-grams among the held-out set's own references, as published."""
    return frequencies([question.references for question in questions])


def measure(predictions: Sequence[str], questions: Sequence[Question], fitted: Frequencies) -> dict[str, np.ndarray]:
    pairs = list(zip(predictions, (q.references for q in questions), strict=True))
    scores = np.array([cider(prediction, references, fitted) for prediction, references in pairs])
    return {
        "cider": scores,
        "bleu": np.array([bleu_statistics(prediction, references) for prediction, references in pairs]),
        "n": np.ones(len(scores)),
    }


def compute(sums: Sums) -> dict[str, float]:
    return {"cider": mean(sums, "cider", "n"), "bleu4": bleu(sums["bleu"])}


def constant(questions: Sequence[Question]) -> str:
    """Of some captions the one that suits the training pictures best."""
    scored = questions[:SCORED]
    known = fit(scored)
    captions = list(dict.fromkeys(caption for question in scored for caption in question.references))[:CANDIDATES]

    def score(caption: str) -> float:
        return sum(cider(caption, question.references, known) for question in scored)

    return max(captions, key=score, default="")


def file(questions: Sequence[Question], predictions: Sequence[str]) -> tuple[str, str]:
    """As COCO's server takes it."""
    records = [{"image_id": number(q.id), "caption": p} for q, p in zip(questions, predictions, strict=True)]
    return "caption_predict.json", json.dumps(records)


TASK = Task("caption", "caption: ", 40, 40, "tokens", "cider", measure, compute, constant, file, fit=fit)

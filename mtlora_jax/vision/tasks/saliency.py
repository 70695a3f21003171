"""Saliency: does this pixel belong to what catches the eye."""

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.metrics import ratio
from mtlora_jax.vision.tasks import binary
from mtlora_jax.vision.tasks.task import Task

THRESHOLDS = np.linspace(0.2, 0.9, 15, dtype=np.float32)
"""0.20 to 0.90 in 15 steps: the thresholds of the metrics that are averaged over images."""


def _finish(sums):
    pixels = jnp.maximum(sums["positives"] + sums["negatives"], 1.0)
    # Each class weighs the other's share of the whole batch; a batch of one class has loss 0, as published.
    weight = sums["negatives"] / pixels
    return (weight * sums["positive_loss"] + (1 - weight) * sums["negative_loss"]) / pixels


def _measure(logits, label):
    probability = jax.nn.sigmoid(logits[..., 0].astype(jnp.float32))
    positive, negative = binary.truth(label, jnp.ones(len(label), bool))
    count = binary.above(probability, THRESHOLDS, positive, negative)
    hits, predicted = count["hits"], count["predicted"]
    present = jnp.broadcast_to(count["positives"][:, None], hits.shape)
    union = predicted + present - hits
    images = jnp.any(positive | negative, (1, 2)).astype(jnp.float32)
    wide = binary.above(probability, binary.WIDE, positive, negative)
    twice = binary.above(jax.nn.sigmoid(probability), binary.WIDE, positive, negative)
    return {
        "images": images,
        "iou": jnp.where(union > 0, hits / jnp.maximum(union, 1), 1.0) * images[:, None],
        "precision": hits / jnp.maximum(predicted, 1),
        "recall": hits / jnp.maximum(present, 1),
        "positives": count["positives"],
        "hits": wide["hits"],
        "predicted": wide["predicted"],
        "hits_double_sigmoid": twice["hits"],
        "predicted_double_sigmoid": twice["predicted"],
    }


def _compute(totals):
    mean = {name: ratio(totals[name], totals["images"]) for name in ("iou", "precision", "recall")}
    precision, recall = mean["precision"], mean["recall"]
    counts = totals["positives"], 0.3
    return {
        "mIoU": float(mean["iou"].max()),
        "maxF": float((2 * precision * recall / (precision + recall + 1e-12)).max()),
        "beta_maxF": binary.max_f(totals["hits"], totals["predicted"], *counts),
        "beta_maxF_double_sigmoid": binary.max_f(
            totals["hits_double_sigmoid"], totals["predicted_double_sigmoid"], *counts
        ),
    }


def saliency() -> Task:
    """Saliency from one logit per pixel; labels 0, 1 or void, `[B, H, W]` uint8.

    Loss: logistic, positives weighted by the share of negatives in the whole batch and the reverse, divided
    by the number of pixels (published weight 5). Void pixels are not counted.

    Metrics, with p the sigmoid of the logit:
      mIoU: the paper's saliency column. IoU of p >= t with the label, 1 where both are empty, averaged over
        images; the best t of 0.20, 0.25 .. 0.90.
      maxF: F of precision and recall, each averaged over images; the best t of the same.
      beta_maxF: F with β² = 0.3 from pixel counts over the set; the best t of 0.05, 0.10 .. 0.95.
      beta_maxF_double_sigmoid: the same of sigmoid(p), as the reference computes what it calls "Beta maxF".
    Images are scored one by one, so a batch of one is scored like any other (the reference takes its rows for
    images).
    """
    return binary.task("saliency", weight=5.0, score="mIoU", finish=_finish, measure=_measure, compute=_compute)

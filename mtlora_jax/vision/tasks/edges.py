"""Edges: does an object's boundary run through this pixel."""

import jax
import jax.numpy as jnp

from mtlora_jax.engine.metrics import ratio
from mtlora_jax.vision.tasks import binary
from mtlora_jax.vision.tasks.task import Task

POSITIVE_WEIGHT = 0.95
"""Edges are thin: a positive pixel weighs 19 negative ones."""


def _balance(sums):
    return POSITIVE_WEIGHT * sums["positive_loss"] + (1 - POSITIVE_WEIGHT) * sums["negative_loss"]


def _finish(sums):
    return _balance(sums) / jnp.maximum(sums["positives"] + sums["negatives"], 1.0)


def _measure(logits, label):
    logit = logits[..., 0].astype(jnp.float32)
    probability = jax.nn.sigmoid(logit)
    positive, negative = binary.truth(label, jnp.ones(len(label), bool))
    once = binary.cross_entropy(logit, positive, negative, axis=(1, 2))
    twice = binary.cross_entropy(probability, positive, negative, axis=(1, 2))
    return {
        "pixels": once["positives"] + once["negatives"],
        "loss": _balance(once),
        "loss_double_sigmoid": _balance(twice),
        **binary.above(probability, binary.WIDE, positive, negative),
    }


def _compute(totals):
    return {
        "maxF": binary.max_f(totals["hits"], totals["predicted"], totals["positives"], 1.0),
        "loss": float(ratio(totals["loss"], totals["pixels"])),
        "loss_double_sigmoid": float(ratio(totals["loss_double_sigmoid"], totals["pixels"])),
    }


def edges() -> Task:
    """Edges from one logit per pixel; labels 0, 1 or void, `[B, H, W]` uint8.

    Loss: logistic, positives weighted 0.95 and negatives 0.05, divided by the number of pixels (published
    weight 50). Void pixels are not counted.

    Metrics, all over the pixels of the whole set:
      maxF: the F-measure of p >= t, pixel against pixel (no thinning, no tolerance: not the odsF of the BSDS
        benchmark); the best t of 0.05, 0.10 .. 0.95.
      loss: the mean of the loss above.
      loss_double_sigmoid: the same of sigmoid(p) in the place of p; the one edge metric the reference has.
    """
    return binary.task("edges", weight=50.0, score="maxF", finish=_finish, measure=_measure, compute=_compute)

"""What tasks with a yes or no per pixel share: balanced cross-entropy and counts along thresholds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.metrics import bincount, ratio
from mtlora_jax.images import read
from mtlora_jax.vision.tasks.classes import whole
from mtlora_jax.vision.tasks.colours import grey, stripe
from mtlora_jax.vision.tasks.task import VOID, Legend, Task

WIDE = np.linspace(0.05, 0.95, 19, dtype=np.float32)
"""0.05 to 0.95 in 19 steps: the thresholds of metrics over a whole set."""


def truth(label: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pixels are positive and which negative, `[B, H, W]` bool; void and invalid ones are neither."""
    counted = (label != VOID) & valid[:, None, None]
    positive = label >= 0.5
    return counted & positive, counted & ~positive


def cross_entropy(scores, positive, negative, axis=None) -> dict[str, jax.Array]:
    """Sums of the logistic loss over positive and negative pixels apart, so that any class weight can follow.

    Args:
      scores: `[B, H, W]` float32 logits.
      positive: `[B, H, W]` bool.
      negative: `[B, H, W]` bool.
      axis: the axes to sum over; all by default.
    """
    return {
        "positive_loss": jnp.where(positive, jax.nn.softplus(-scores), 0.0).sum(axis),
        "negative_loss": jnp.where(negative, jax.nn.softplus(scores), 0.0).sum(axis),
        "positives": positive.sum(axis, dtype=jnp.float32),
        "negatives": negative.sum(axis, dtype=jnp.float32),
    }


def loss_sums(logits: jax.Array, label: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """`Task.sums` of a binary task: logits `[B, H, W, 1]`, label `[B, H, W]` (1 from 0.5 up), valid `[B]`."""
    return cross_entropy(logits[..., 0].astype(jnp.float32), *truth(label, valid))


def above(scores, thresholds, positive, negative) -> dict[str, jax.Array]:
    """Per image and threshold: how many counted pixels reach it, and how many of those are positive.

    Args:
      scores: `[B, H, W]` float32.
      thresholds: `[K]` ascending.
      positive: `[B, H, W]` bool.
      negative: `[B, H, W]` bool.

    Returns:
      `hits` and `predicted`, `[B, K]` int32, and `positives`, `[B]`.
    """
    bins = len(thresholds) + 1
    # The bin of a pixel is the number of thresholds it reaches: K fused comparisons, then one histogram.
    level = sum((scores >= t).astype(jnp.int32) for t in thresholds)
    code = jnp.where(positive | negative, level + bins * positive, 2 * bins)
    histogram = bincount(code, 2 * bins).reshape(-1, 2, bins)
    reaching = jnp.flip(jnp.cumsum(jnp.flip(histogram, -1), -1), -1)
    hits, predicted = reaching[:, 1, 1:], reaching[:, :, 1:].sum(1)
    return {"hits": hits, "predicted": predicted, "positives": reaching[:, 1, 0]}


def max_f(hits, predicted, positives, beta2: float) -> float:
    """The best F-measure along the thresholds from counts over a set; NaN without a positive pixel.

    F = (1 + β²) P R / (β² P + R) = (1 + β²) hits / (β² positives + predicted), 0 where nothing is hit.
    """
    return float(np.max(ratio((1 + beta2) * hits, (beta2 * positives + predicted) * (positives > 0))))


def decode(logits: jax.Array) -> jax.Array:
    """The probability `[...]` of a positive pixel from logits `[..., 1]` (the reference has it times 255)."""
    return jax.nn.sigmoid(logits[..., 0])


def paint(label: np.ndarray) -> np.ndarray:
    """A `[H, W]` label (0, 1, void) or probability as greys."""
    label = np.asarray(label)
    void = label == VOID
    return stripe(grey(np.where(void, 0, label)), void)


def legend(labels) -> Legend:
    return (("no", (0, 0, 0)), ("yes", (255, 255, 255)))


def constant(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Logit 0: a probability of 1/2 is the full mask to low thresholds and the empty one to high ones.

    The metrics take the better of the two, so no constant scores higher, whatever the labels are.
    """
    return np.zeros(1, np.float32)


def label(path: Path, task: Task, data: Any) -> np.ndarray:
    """A mask of 0, 1 and 255 (void), or of greys, 1 from one half up, where `data.masks` is `grey`."""
    if data.masks != "grey":
        return whole(read.plane(path), path)
    share = read.array(path, "H", "W") if path.suffix == ".npy" else read.shares(path)
    return np.where(np.isfinite(share), share >= 0.5, VOID).astype(np.uint8)


def save(stem: Path, probability: np.ndarray) -> Path:
    """As the reference writes it: `<stem>.png` of 255 p."""
    return read.write_png(stem, np.clip(np.rint(255 * probability), 0, 255).astype(np.uint8))


def task(name: str, weight: float, score: str, finish: Callable, measure: Callable, compute: Callable) -> Task:
    """A task of one logit per pixel, labels 0, 1 or void, `[B, H, W]` uint8; arguments as in `Task`.

    Args:
      score: the metric of `compute` that says how good a model is; the higher the better.
    """
    return Task(
        name=name,
        channels=1,
        weight=weight,
        label_shape=(),
        label_dtype=np.uint8,
        sums=loss_sums,
        finish=finish,
        measure=measure,
        compute=compute,
        score=score,
        higher_is_better=True,
        decode=decode,
        paint=paint,
        constant=constant,
        values=2,
        read=label,
        save=save,
        legend=legend,
    )

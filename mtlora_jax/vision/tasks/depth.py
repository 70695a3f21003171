"""Depth: how far away, in metres, what a pixel shows is."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.metrics import ratio
from mtlora_jax.images import read
from mtlora_jax.images.transforms import LabelTransform
from mtlora_jax.vision.tasks.colours import ramp, stripe
from mtlora_jax.vision.tasks.task import VOID, Task

NEAREST = 1e-9
"""Metres; predictions are raised to it before they are scored, so that they have a logarithm."""


def _sums(logits, label, valid):
    label = label.astype(jnp.float32)
    counted = (label != VOID) & valid[:, None, None]
    error = jnp.abs(logits[..., 0].astype(jnp.float32) - label)
    return {"error": jnp.where(counted, error, 0.0).sum(), "pixels": counted.sum(dtype=jnp.float32)}


def _finish(sums):
    return sums["error"] / jnp.maximum(sums["pixels"], 1.0)


def _measure(logits, label):
    label = label.astype(jnp.float32)
    counted = label != VOID
    predicted = jnp.maximum(logits[..., 0].astype(jnp.float32), NEAREST)
    error = predicted - label
    log_error = jnp.log(predicted) - jnp.log(jnp.maximum(label, NEAREST))

    def total(x):
        return jnp.where(counted, x, 0.0).sum((1, 2))

    return {"pixels": total(1.0), "squared": total(error**2), "log_squared": total(log_error**2)}


def _compute(totals):
    return {
        "rmse": float(np.sqrt(ratio(totals["squared"], totals["pixels"]))),
        "log_rmse": float(np.sqrt(ratio(totals["log_squared"], totals["pixels"]))),
    }


def _decode(logits):
    return logits[..., 0]


def _constant(labels, valid):
    labels = np.asarray(labels)[np.asarray(valid, bool)]
    known = labels[labels != VOID]
    return np.array([known.mean(dtype=np.float64) if known.size else 1.0], np.float32)


def _read(path, task, data):
    """Metres; 0 where they are unknown. A png holds whole multiples of `data.depth_unit`."""
    depth = read.floats(read.plane(path)) * np.float32(1 if path.suffix == ".npy" else data.depth_unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _known(depth):
    return (depth > 0) & (depth != VOID)


def _zoom(depth, augmentation, preset):
    """What is enlarged is nearer."""
    return np.where(depth == VOID, 0, depth) / augmentation.scale


def _settle(depth):
    return np.where(depth > 0, depth, VOID)


def _paint(near, far, metres):
    metres = np.asarray(metres, np.float32)
    void = metres == VOID
    closeness = np.log(far / np.maximum(np.where(void, far, metres), near / 10)) / np.log(far / near)
    return stripe(ramp(closeness), void)


def _legend(near, far, labels):
    """Five steps of the ramp, which is logarithmic."""
    metres = np.geomspace(near, far, 5, dtype=np.float32)
    colours = _paint(near, far, metres[None])[0]
    return [(f"{m:.3g} m", colour.tolist()) for m, colour in zip(metres, colours, strict=True)]


def depth(near: float = 1.0, far: float = 16.0) -> Task:
    """Depth from one output per pixel, as it is; labels `[B, H, W]` float32 metres, void 255.

    Loss: the mean of |prediction - label| over non-void pixels (published weight 1); 0 where all is void (the
    reference gives NaN).

    Metrics, over the non-void pixels of the set, predictions raised to 1e-9 m: `rmse` in metres, and
    `log_rmse`, the rmse of natural logarithms.

    Args:
      near: metres drawn in the ramp's brightest colour. The scale is logarithmic, and the same for every
        picture, so that truth and prediction compare.
      far: metres drawn in its darkest.
    """
    return Task(
        name="depth",
        channels=1,
        weight=1.0,
        label_shape=(),
        label_dtype=np.float32,
        sums=_sums,
        finish=_finish,
        measure=_measure,
        compute=_compute,
        score="rmse",
        higher_is_better=False,
        decode=_decode,
        paint=partial(_paint, near, far),
        constant=_constant,
        transform=LabelTransform(VOID, known=_known, augment=_zoom, settle=_settle),
        read=_read,
        legend=partial(_legend, near, far),
    )

"""What tasks that name a class per pixel share: cross-entropy, intersection over union, palettes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.metrics import bincount, ratio
from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.images.transforms import LabelTransform, unchanged
from mtlora_jax.vision.tasks.colours import STRIPES, stripe, voc_palette
from mtlora_jax.vision.tasks.task import Task


def class_task(
    name: str, weight: float, names: Sequence[str], palette: np.ndarray | None = None, settle: Callable = unchanged
) -> Task:
    """A task whose label is a class index per pixel, `[B, H, W]`: uint8 with void 255, or, from 256 classes up, uint16
    with void 65535.

    Loss: cross-entropy, averaged over the non-void pixels of the whole batch (0 where there are none; the
    reference gives NaN). A label that is neither a class nor void makes it NaN, so none can train unseen.

    Metrics: `IoU/<class>` = TP / (TP + FP + FN) over all counted pixels of the set, and `mIoU`, their mean.
    By the published protocol a class that neither occurs nor is predicted counts as 0 in the mean, and
    background is a class.

    Args:
      name: the task's name.
      weight: the weight of its loss.
      names: the classes' names, C of them.
      palette: `[C, 3]` uint8; the VOC colours by default.
      settle: applied to a label at its final size (see `LabelTransform`).
    """
    names, classes = tuple(names), len(names)
    dtype = np.uint8 if classes < 256 else np.uint16
    void = int(np.iinfo(dtype).max)
    palette = voc_palette(classes) if palette is None else palette
    return Task(
        name=name,
        channels=classes,
        weight=weight,
        label_shape=(),
        label_dtype=dtype,
        sums=partial(_sums, classes, void),
        finish=_finish,
        measure=partial(_measure, classes),
        compute=partial(_compute, names),
        score="mIoU",
        higher_is_better=True,
        decode=_decode,
        paint=partial(_paint, name, palette, void),
        constant=partial(_constant, classes, void),
        transform=LabelTransform(void, settle=settle),
        values=classes,
        read=label,
        save=partial(_save, dtype),
        legend=partial(_legend, names, palette, void),
    )


def _sums(classes, void, logits, label, valid):
    logits = logits.astype(jnp.float32)
    counted = (label != void) & valid[:, None, None]
    # A masked sum, not a gather: XLA fuses it, and its gradient is a select rather than a scatter.
    chosen = jnp.where(jax.nn.one_hot(label, classes, dtype=bool), logits, 0.0).sum(-1)
    nll = jnp.where(label < classes, jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.nan)
    return {"nll": jnp.where(counted, nll, 0.0).sum(), "pixels": counted.sum(dtype=jnp.float32)}


def _finish(sums):
    return sums["nll"] / jnp.maximum(sums["pixels"], 1.0)


def _measure(classes, logits, label):
    predicted = jnp.argmax(logits, -1).astype(jnp.int32)
    pair = label.astype(jnp.int32) * classes + predicted
    # Labels outside the classes, void among them, fall past the last bin.
    confusion = bincount(pair, classes * classes).reshape(-1, classes, classes)
    return {
        "both": jnp.diagonal(confusion, axis1=1, axis2=2),
        "truth": confusion.sum(2),
        "predicted": confusion.sum(1),
    }


def _compute(names, totals):
    union = totals["truth"] + totals["predicted"] - totals["both"]
    iou = ratio(totals["both"], union, otherwise=0.0 if union.any() else np.nan)
    return {"mIoU": float(iou.mean())} | {f"IoU/{n}": float(v) for n, v in zip(names, iou, strict=True)}


def _decode(logits):
    return jnp.argmax(logits, -1)


def _paint(name, palette, void, ids):
    ids, classes = np.asarray(ids), len(palette)
    unknown = ids == void
    if np.any((ids >= classes) & ~unknown):
        allowed = f"use 0..{classes - 1}, or {void} for void"
        raise UserError(f"{name}: label {ids[~unknown].max()} is not one of its {classes} classes; {allowed}")
    return stripe(palette[np.where(unknown, 0, ids)], unknown)


def _legend(names, palette, void, labels):
    """The classes that occur."""
    present = np.unique(np.concatenate([np.unique(label) for label in labels]))
    found = [(names[c], palette[c].tolist()) for c in present.tolist() if c < len(names)]
    return [*found, *([("void", STRIPES[1].tolist())] if void in present else [])]


def _constant(classes, void, labels, valid):
    labels = labels[np.asarray(valid, bool)]
    count = np.bincount(labels[labels != void].ravel(), minlength=classes)[:classes]
    # Log frequencies: their argmax is the majority class, and no constant has a smaller loss.
    return np.log((count + 1.0) / (count.sum() + classes)).astype(np.float32)


def label(path: Path, task: Task, data: Any) -> np.ndarray:
    """Class numbers `[H, W]` of a png (palette or grey, 8 or 16 bits) or npy."""
    return whole(read.plane(path), path)


def whole(plane: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers as integers, also where a file has them as floats. Raises UserError for fractions."""
    if plane.dtype.kind != "f":
        return plane
    if not (np.isfinite(plane).all() and np.array_equal(plane, np.rint(plane))):
        raise UserError(f"{path}: classes are whole numbers, these are not")
    return plane.astype(np.int64)


def _save(dtype, stem, prediction):
    """`<stem>.png` of class numbers: 8 bits with a palette, or 16 bits of grey."""
    palette = voc_palette(256) if dtype == np.uint8 else None
    return read.write_png(stem, np.asarray(prediction).astype(dtype), palette)


def class_names(classes: int, names: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The names of `classes` classes: those given, else the known ones if they are as many, else numbers.

    Raises:
      UserError: another number of names than of classes.
    """
    if names is None:
        names = known if len(known) == classes else [f"class_{c}" for c in range(classes)]
    if len(names) != classes:
        raise UserError(f"{len(names)} class names for {classes} classes; give one for each")
    return tuple(names)

"""What tasks that name a class per pixel share: cross-entropy, intersection over union, palettes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine import metrics
from mtlora_jax.errors import UserError
from mtlora_jax.vision.tasks.colours import stripe
from mtlora_jax.vision.tasks.task import VOID, Task


def class_task(name: str, weight: float, names: Sequence[str], palette: np.ndarray) -> Task:
    """A task whose label is a class index per pixel, `[B, H, W]` uint8.

    Loss: cross-entropy, averaged over the non-void pixels of the whole batch (0 where there are none; the
    reference gives NaN). A label that is neither a class nor void makes it NaN, so none can train unseen.

    Figures: `IoU/<class>` = TP / (TP + FP + FN) over all counted pixels of the set, and `mIoU`, their mean.
    By the published protocol a class that neither occurs nor is predicted counts as 0 in the mean, and
    background is a class.

    Args:
      name: the task's name.
      weight: the weight of its loss.
      names: the classes' names, C of them.
      palette: `[C, 3]` uint8.
    """
    classes = len(names)

    def sums(logits, label, valid):
        logits = logits.astype(jnp.float32)
        counted = (label != VOID) & valid[:, None, None]
        # A masked sum, not a gather: XLA fuses it, and its gradient is a select rather than a scatter.
        chosen = jnp.where(jax.nn.one_hot(label, classes, dtype=bool), logits, 0.0).sum(-1)
        nll = jnp.where(label < classes, jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.nan)
        return {"nll": jnp.where(counted, nll, 0.0).sum(), "pixels": counted.sum(dtype=jnp.float32)}

    def finish(sums):
        return sums["nll"] / jnp.maximum(sums["pixels"], 1.0)

    def measure(logits, label):
        predicted = jnp.argmax(logits, -1).astype(jnp.int32)
        pair = label.astype(jnp.int32) * classes + predicted
        # Labels outside the classes, void among them, fall past the last bin.
        confusion = metrics.bincount(pair, classes * classes).reshape(-1, classes, classes)
        return {
            "both": jnp.diagonal(confusion, axis1=1, axis2=2),
            "truth": confusion.sum(2),
            "predicted": confusion.sum(1),
        }

    def compute(totals):
        union = totals["truth"] + totals["predicted"] - totals["both"]
        iou = metrics.ratio(totals["both"], union, otherwise=0.0 if union.any() else np.nan)
        return {"mIoU": float(iou.mean())} | {f"IoU/{n}": float(v) for n, v in zip(names, iou, strict=True)}

    def paint(ids):
        ids = np.asarray(ids)
        void = ids == VOID
        if np.any((ids >= classes) & ~void):
            allowed = f"use 0..{classes - 1}, or {VOID} for void"
            raise UserError(f"{name}: label {ids[~void].max()} is none of its {classes} classes; {allowed}")
        return stripe(palette[np.where(void, 0, ids)], void)

    def constant(labels, valid):
        labels = labels[np.asarray(valid, bool)]
        count = np.bincount(labels[labels != VOID].ravel(), minlength=classes)[:classes]
        # Log frequencies: their argmax is the majority class, and no constant has a smaller loss.
        return np.log((count + 1.0) / (count.sum() + classes)).astype(np.float32)

    return Task(
        name=name,
        channels=classes,
        weight=weight,
        label_shape=(),
        label_dtype=np.uint8,
        sums=sums,
        finish=finish,
        measure=measure,
        compute=compute,
        score="mIoU",
        higher_is_better=True,
        decode=lambda logits: jnp.argmax(logits, -1),
        paint=paint,
        constant=constant,
    )


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

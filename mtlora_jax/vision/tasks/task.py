"""What a dense task is: how its label is kept, moved and checked, its loss, its metric and its colours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.images.transforms import LabelTransform

VOID = 255
"""The label value that counts for nothing in the published data sets (in all three channels of normals)."""
SHOWN = 8
"""Values of a label that an error message spells out."""


def read_numbers(path: Path, task: "Task", data: Any) -> np.ndarray:
    """`[H, W, *label_shape]` of a `.npy` file; void where a number is not finite.

    Raises:
      UserError: a png, which would not hold such numbers, or an array of another shape.
    """
    if path.suffix != ".npy":
        raise UserError(f"{path}: labels of {task.name} are numbers, which are read from .npy files")
    found = read.array(path, "H", "W", *map(str, task.label_shape))
    if found.shape[2:] != task.label_shape:
        raise UserError(f"{path}: holds {list(found.shape)}; numbers {['H', 'W', *task.label_shape]} are needed")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        finite = np.isfinite(found).reshape(*found.shape[:2], -1).all(-1)
        found = np.where(finite.reshape(*finite.shape, *(1,) * len(task.label_shape)), found, task.void)
    return found.astype(task.label_dtype)


Legend = Sequence[tuple[str, Sequence[int]]]
"""What colours mean: words, and red, green and blue."""


def no_legend(labels: Sequence[np.ndarray]) -> Legend:
    return ()


def save_numbers(stem: Path, prediction: np.ndarray) -> Path:
    """A prediction `[H, W, ...]` as float32, at `<stem>.npy`."""
    path = stem.with_name(f"{stem.name}.npy")
    np.save(path, np.asarray(prediction, np.float32))
    return path


@dataclass(frozen=True)
class Task:
    """One dense task. Its functions are module-level ones, or partials of them, so that it pickles.

    Loss and metric are sums first and divided last, so batches and devices merge exactly.

    Attributes:
      name: the task's key in configs, batches and outputs.
      channels: C, the outputs of its head.
      weight: the published weight of its loss in the total.
      label_shape: the label's axes after `[H, W]`: `()` or `(3,)`.
      label_dtype: the label's dtype on the host.
      sums: `(logits [B, H, W, C], label [B, H, W, ...], valid [B]) -> {name: scalar}`, additive statistics of the
        loss over non-void pixels of valid examples, jit-able.
      finish: `{name: scalar} -> loss`; 0, with gradient 0, where nothing was valid.
      measure: `(logits, label) -> {name: [B, ...]}`, per-image statistics of the metric, additive over images.
      compute: `{name: float64 sums} -> {metric: float}`.
      score: the metric that stands for the task (in Δm, in "best").
      higher_is_better: the direction of `score`.
      decode: `logits [..., C] -> prediction` in label units: a class, a probability in 0..1, a unit normal, metres.
      paint: `one image's label or decoded prediction [H, W, ...] -> uint8 [H, W, 3]`.
      legend: `[label or prediction, ...] -> ((words, colour), ...)`, what the colours of these mean.
      constant: `(labels [B, H, W, ...], valid [B]) -> logits [C]`, the best constant predictor for `score`.
      transform: the label's void value, and what resizing and augmenting do to it.
      values: labels are whole numbers below this, or void; None where they are numbers of another kind.
      read: `(path, task, data) -> label [H, W, ...]` of a png or npy in a folder of one's own, whose config is `data`.
      save: `(stem, prediction [H, W, ...]) -> path`, writes a decoded prediction beside its name, losing nothing that
        the published data sets keep.
    """

    name: str
    channels: int
    weight: float
    label_shape: tuple[int, ...]
    label_dtype: type[np.generic]
    sums: Callable
    finish: Callable[[Mapping], object]
    measure: Callable
    compute: Callable[[Mapping], dict[str, float]]
    score: str
    higher_is_better: bool
    decode: Callable
    paint: Callable[[np.ndarray], np.ndarray]
    constant: Callable
    transform: LabelTransform = field(default_factory=LabelTransform)
    values: int | None = None
    read: Callable[[Path, "Task", Any], np.ndarray] = read_numbers
    save: Callable[[Path, np.ndarray], Path] = save_numbers
    legend: Callable[[Sequence[np.ndarray]], Legend] = no_legend

    @property
    def void(self) -> float:
        return self.transform.void

    def checked(self, label: np.ndarray, path: Path) -> np.ndarray:
        """A label as it was read, found to hold nothing but its values and void, in the task's own dtype.

        Raises:
          UserError: with the label's histogram.
        """
        if self.values is None:
            return label
        if np.any(outside := (label != self.void) & ((label >= self.values) | (label < 0))):
            values, counts = np.unique(label, return_counts=True)
            most = [f"{v}: {n}" for v, n in zip(values, counts, strict=True)]
            shown = ", ".join(most[:SHOWN] + ["..."] * (len(most) > SHOWN))
            raise UserError(
                f"{path}: class {label[outside].max()} is not one of 0..{self.values - 1} or {self.void:g} (void); "
                f"pixels by value: {shown}"
            )
        return label.astype(self.label_dtype)

    def lacks(self, known: int, positives: int) -> str | None:
        """What labels are missing to learn anything from, in words.

        Args:
          known: pixels that are not void.
          positives: of a task of yes and no, pixels that say yes.
        """
        if not known:
            return "not one pixel is known"
        if self.values == 2 and not positives:
            return "never 1; for masks of 0 and 255: --data.masks=grey"
        return None

    def empty(self, height: int, width: int) -> np.ndarray:
        """A label that is void all over."""
        return np.full((height, width, *self.label_shape), self.void, self.label_dtype)

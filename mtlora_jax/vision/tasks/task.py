"""What a dense task is: label format, loss statistics, metric statistics and colours, as pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

VOID = 255
"""The label value that counts for nothing, in every task (in all three channels of normals)."""


@dataclass(frozen=True)
class Task:
    """One dense task. Loss and metric are sums first and divided last, so batches and devices merge exactly.

    Attributes:
      name: the task's key in configs, batches and outputs.
      channels: C, the outputs of its head.
      weight: the published weight of its loss in the total.
      label_shape: the label's axes after `[H, W]`: `()` or `(3,)`.
      label_dtype: the label's dtype on the host.
      sums: `(logits [B, H, W, C], label [B, H, W, ...], valid [B]) -> {name: scalar}`, additive statistics
        of the loss over non-void pixels of valid examples, jit-able.
      finish: `{name: scalar} -> loss`; 0, with gradient 0, where nothing was valid.
      measure: `(logits, label) -> {name: [B, ...]}`, per-image statistics of the metric, additive over images.
      compute: `{name: float64 sums} -> {figure: float}`.
      score: the figure that stands for the task (in Δm, in "best").
      higher_is_better: the direction of `score`.
      decode: `logits [..., C] -> prediction` in label units: a class, a probability in 0..1, a unit normal, metres.
      paint: `one image's label or decoded prediction [H, W, ...] -> uint8 [H, W, 3]`.
      constant: `(labels [B, H, W, ...], valid [B]) -> logits [C]`, the best constant predictor for `score`.
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

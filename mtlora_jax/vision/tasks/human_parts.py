"""Human part segmentation: which of six body parts a pixel shows, in images with people."""

from collections.abc import Sequence

import numpy as np

from mtlora_jax.vision.tasks.classes import class_names, class_task
from mtlora_jax.vision.tasks.colours import voc_palette
from mtlora_jax.vision.tasks.task import VOID, Task

PARTS = ("background", "head", "torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs")

COLOURS = np.array(
    [
        (30, 32, 40),
        (244, 162, 97),
        (42, 157, 143),
        (231, 111, 81),
        (233, 196, 106),
        (69, 123, 157),
        (168, 218, 220),
    ],
    np.uint8,
)


def human_parts(classes: int = 7, names: Sequence[str] | None = None) -> Task:
    """Human parts, background included; see `classes.class_task` for loss and metrics.

    Published protocol: loss weight 2; an image without people is void altogether and counts for nothing; mean
    IoU over 7 classes. Such images are common, so a small batch is often all void: its loss is 0.
    """
    palette = COLOURS if classes <= len(COLOURS) else voc_palette(classes)
    return class_task("human_parts", 2.0, class_names(classes, names, PARTS), palette, _settle)


def _settle(parts: np.ndarray) -> np.ndarray:
    """Void all over where no part is seen."""
    return parts if np.any((parts > 0) & (parts != VOID)) else np.full_like(parts, VOID)

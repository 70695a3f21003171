"""Semantic segmentation: the object class of every pixel (PASCAL VOC 20 + background, NYUDv2 40)."""

from collections.abc import Sequence

from mtlora_jax.vision.tasks.classes import class_names, class_task
from mtlora_jax.vision.tasks.task import Task

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)


def semseg(classes: int = 21, names: Sequence[str] | None = None) -> Task:
    """Semantic segmentation with `classes` classes; see `classes.class_task` for loss and metrics.

    Published protocol: loss weight 1; mean IoU over 21 classes (PASCAL, background included) or 40 (NYUDv2).
    """
    return class_task("semseg", 1.0, class_names(classes, names, VOC))

"""Scenes: an endless labelled data set of ray-cast pictures, computed when an index is asked for.

Labels come from the geometry at pixel centres and follow the conventions of the published data: 255 is void
in every label, human parts are void as a whole where nobody is seen, depth and normals are void on the sky,
and thin void rings surround some objects. What a picture shows depends on (seed, split, index) alone, not on
its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images.scenes.people import PARTS
from mtlora_jax.images.scenes.sample import SPLITS, world_of
from mtlora_jax.images.scenes.view import View
from mtlora_jax.images.scenes.world import CLASSES, World
from mtlora_jax.vision.datasets.data import Data, Tasks
from mtlora_jax.vision.datasets.examples import NativeExamples
from mtlora_jax.vision.datasets.scenes import labels as _labels
from mtlora_jax.vision.datasets.scenes.labels import ATTRIBUTES, OBJECTS

__all__ = ["ATTRIBUTES", "CLASSES", "OBJECTS", "PARTS", "SPLITS", "TASKS", "Scenes", "ScenesData"]

TASKS = tuple(_labels.LABELS)


@dataclass(frozen=True)
class ScenesData(Data):
    """The embedded data set of procedural scenes.

    Attributes:
      train_length, val_length: images per split.
      seed: another seed, another world.
    """

    train_length: int = 4096
    val_length: int = 128
    seed: int = 0

    def classes(self) -> Mapping[str, int | None]:
        return dict.fromkeys(TASKS) | {"semseg": len(CLASSES), "human_parts": len(PARTS)}

    def open(self, split: str, tasks: Tasks, size: int) -> "Scenes":
        return self.native(split, tasks, size)

    def native(self, split: str, tasks: Tasks, size: int) -> "Scenes":
        """Scenes have no size of their own: they are rendered at the network's."""
        length = self.train_length if split == "train" else self.val_length
        return Scenes(size, length, split, self.seed, tuple(tasks))


@dataclass(frozen=True)
class Scenes(NativeExamples):
    """Labelled pictures.

    `[i]` is `{"image": uint8 [S, S, 3], "labels": {task: array}, "valid": {task: np.bool_},
    "id": np.int64}` with labels semseg, human_parts, saliency, edges uint8 `[S, S]`, normals float32
    `[S, S, 3]` (unit; x right, y up, z towards the viewer) and depth float32 `[S, S]` (metres along the
    optical axis); 255 is void.

    With `labels="attributes"` it is `{"image", "labels": {attribute: uint8 scalar or [K]}, "id"}`; see
    `ATTRIBUTES`.

    Args:
      size: S, rows and columns of a picture, at least 16.
      length: how many pictures there are.
      split: "train" or "val"; the two never share a picture.
      seed: another seed, another world; at least 0.
      tasks: which labels to make.
      labels: "dense" or "attributes".

    Raises:
      UserError: a size below 16, a negative seed or length, an unknown split, task or kind of labels.
    """

    size: int
    length: int
    split: str = "train"
    seed: int = 0
    tasks: tuple[str, ...] = TASKS
    labels: str = "dense"

    def __post_init__(self):
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.size < 16:
            raise UserError(f"scenes: size {self.size} is too small; give at least 16")
        if self.length < 0 or not 0 <= self.seed < 2**64:
            raise UserError(f"scenes: length {self.length} and seed {self.seed} must not be negative")
        if self.split not in SPLITS:
            raise UserError(f"scenes: no split {self.split!r}; there are {', '.join(SPLITS)}")
        if self.labels not in ("dense", "attributes"):
            raise UserError(f"scenes: no labels {self.labels!r}; there are dense, attributes")
        for task in self.tasks:
            if task not in TASKS:
                raise UserError(f"scenes: no labels for task {task!r}; there are {', '.join(TASKS)}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self.length:
            raise IndexError(f"scenes: index {index} of {self.length}")
        view = View.of(self.world(index), self.size)
        example = {"image": view.picture()}
        if self.labels == "attributes":
            return {**example, "labels": _labels.attributes(view), "id": np.int64(index)}
        return {
            **example,
            "labels": {task: _labels.LABELS[task](view) for task in self.tasks},
            "valid": {task: np.bool_(True) for task in self.tasks},
            "id": np.int64(index),
        }

    def shape(self, index: int) -> tuple[int, int]:
        return self.size, self.size

    def world(self, index: int) -> World:
        """What picture `index` shows."""
        return world_of(self.seed, self.split, index)

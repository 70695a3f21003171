"""A data set is a config that opens itself: the base of those here, and of your own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mtlora_jax.errors import UserError
from mtlora_jax.images import transforms
from mtlora_jax.input.protocols import Examples
from mtlora_jax.vision.datasets.examples import NativeExamples, Sized
from mtlora_jax.vision.tasks.task import Task

Tasks = Mapping[str, Task]


@dataclass(frozen=True)
class Data:
    """A data set of dense labels. A subclass defines `native`, and `open` where it augments or has no native sizes.

    In a recipe of your own a subclass is found again by `eval.py`, worker processes and `python -m mtlora_jax.data`.
    """

    def classes(self) -> Mapping[str, int | None] | None:
        """The tasks that it has labels of, each with its number of classes if it has classes; None says that it goes
        by the run's tasks."""
        return None

    def labelled(self, tasks: Tasks) -> dict[str, Task]:
        """Those of a run's tasks that it has labels of."""
        known = self.classes()
        return {name: task for name, task in tasks.items() if known is None or name in known}

    def check(self, tasks: Tasks) -> None:
        """Raises UserError where the config cannot be right for a run's tasks; opens nothing."""

    def transform_preset(self) -> transforms.Preset:
        return transforms.DEFAULT

    def open(self, split: str, tasks: Tasks, size: int) -> Examples:
        """The examples of a split at S by S, each with a label of every task.

        Args:
          split: `train` or `val`.
          tasks: by name, in the batch's order.
          size: S, pixels.

        Raises:
          UserError: the data set is not where the config says, or not whole.
        """
        return Sized(self.native(split, tasks, size), tasks, size, None, self.transform_preset())

    def native(self, split: str, tasks: Tasks, size: int) -> NativeExamples:
        """The examples at the sizes they are kept in, for evaluation at native resolution and for `data check`.

        Args:
          split, tasks: as for `open`.
          size: the network's, for data sets that have no size of their own.
        """
        raise UserError(f"{type(self).__name__} has no examples at sizes of their own: it defines no native()")


Preset = Literal["published", "default"]
"""Transforms as published, slips included, or mended; see `images.transforms`."""


@dataclass(frozen=True)
class DiskData(Data):
    """Base of data sets of files, read by a `files.Layout`.

    Attributes:
      root: the data set's folder; nothing is written there.
      preset: transforms as `published`, slips included, or mended (`default`).
      resize_labels: bring labels of another size to their image's, as the reference does, rather than refuse them.
      normals_y: which way y points in the files, so that the default preset turns normals with their image.
    """

    root: str = ""
    preset: Preset = "default"
    resize_labels: bool = False
    normals_y: Literal["down", "up"] = "up"

    def layout(self, tasks: Tasks) -> Any:
        """The `files.Layout` of these tasks' files."""
        raise UserError(f"{type(self).__name__} does not say where its files lie: it defines no layout()")

    def augmentation(self) -> str:
        """The name of its random augmentation, one of `transforms.SAMPLERS`, or `none`."""
        raise UserError(f"{type(self).__name__} names no augmentation: it defines no augmentation()")

    def transform_preset(self) -> transforms.Preset:
        found = transforms.PRESETS[self.preset]
        return found if self.preset == "published" else replace(found, y_up=self.normals_y == "up")

    def open(self, split: str, tasks: Tasks, size: int) -> Examples:
        sample = transforms.SAMPLERS.get(self.augmentation())
        return Sized(self.native(split, tasks, size), tasks, size, sample, self.transform_preset())

"""An image-text data set is a config that opens itself: the base of those here, and of your own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.datasets import captions, gqa, nlvr, vqa
from mtlora_jax.image_text.datasets.features import Features, Files, Records
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.input.by_task import check_found, check_tasks, first_of_each
from mtlora_jax.storage import fetched

READERS = {"vqa": vqa.read, "gqa": gqa.read, "nlvr": nlvr.read, "caption": captions.read}
"""By task: `(root, split) -> questions`."""


@dataclass(frozen=True)
class Data:
    """A data set of questions about pictures. A subclass in a recipe of your own is found again by every command.

    Attributes:
      val_length: held-out questions of each task that evaluation during training reads; 0 for all.
      encoder: what its features are of, a name in `encoders.ENCODERS`; photos of yours are read with it.
    """

    val_length: int = 0
    encoder: str = "RN101"

    def questions(self, split: str, tasks: Sequence[str]) -> list[Question]:
        """The questions of a split, `train` or `val`, of these tasks.

        Raises:
          UserError: a file is missing or broken.
        """
        raise UserError(f"{type(self).__name__} has no questions: it defines no questions()")

    def features(self, split: str) -> Features:
        """The features of a split's pictures."""
        raise UserError(f"{type(self).__name__} has no features: it defines no features()")

    def picture(self, image: str) -> np.ndarray | None:
        """A picture by its id, uint8 `[H, W, 3]`, to show; None where there is none at hand."""
        return None

    def open(self, split: str, tasks: Sequence[str]) -> list[Question]:
        """`questions`, of which every task has some; in the order of the tasks.

        Raises:
          UserError: see `questions`; or a task has none.
        """
        found = self.questions(split, tasks)
        check_found(found, tasks, split)
        return first_of_each(found, tasks)

    def evaluated(self, questions: Sequence[Question], tasks: Sequence[str]) -> list[Question]:
        """The held-out questions that evaluation during training reads, by task."""
        return first_of_each(questions, tasks, self.val_length)


@dataclass(frozen=True)
class PublishedData(Data):
    """The four sets as the reference reads them; the modules beside this one say where their files lie.

    Attributes:
      root: the folder that holds `vqa`, `GQA`, `nlvr`, `COCO` and `VG`.
      prepared: a folder of features (`python -m mtlora_jax.data features`), read in the place of HDF5 files.
      held_out: which of the splits that are not trained on is evaluated.
    """

    root: str = ""
    prepared: str | None = None
    held_out: Literal["val", "test"] = "test"

    def questions(self, split: str, tasks: Sequence[str]) -> list[Question]:
        root = fetched(self.root)
        if not root.is_dir():
            raise UserError(f"data.root: there is no folder {root}; it should hold vqa, GQA, nlvr and COCO")
        check_tasks(tasks, READERS, "PublishedData")
        return [q for task in tasks for q in READERS[task](root, split if split == "train" else self.held_out)]

    def features(self, split: str) -> Features:
        return Files(str(fetched(self.root))) if self.prepared is None else Records(str(fetched(self.prepared)))

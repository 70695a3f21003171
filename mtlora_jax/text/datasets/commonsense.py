"""The eight commonsense sets as LLM-Adapters lays them out.

<root>/<set>/train.json, <root>/<set>/test.json     boolq piqa social_i_qa hellaswag winogrande
                                                    ARC-Challenge ARC-Easy openbookqa
<root>/commonsense_170k_taskid.json                 all training rows, with task ids (or without)
<root>/commonsense_qa/...                           the ninth, as its authors publish it; see `commonsense_qa`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.language.rows import Row
from mtlora_jax.storage import fetched
from mtlora_jax.text.datasets import commonsense_qa
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.read import read_rows
from mtlora_jax.text.tasks import COMMONSENSE

SIZES: Mapping[str, tuple[int, int]] = {
    "boolq": (9427, 3270),
    "piqa": (16113, 1838),
    "social_i_qa": (33410, 1954),
    "hellaswag": (39905, 10042),
    "winogrande": (63238, 1267),
    "ARC-Challenge": (1119, 1172),
    "ARC-Easy": (2251, 2376),
    "openbookqa": (4957, 500),
}
"""Published rows for training and testing."""

UNCHECKED = {"piqa train", "social_i_qa train", "hellaswag train", "hellaswag test", "winogrande train"}
"""Of these, the ones that nobody here has counted."""


@dataclass(frozen=True)
class CommonsenseData(Data):
    """The eight commonsense sets as LLM-Adapters lays them out; see the module for the files.

    Attributes:
      root: the folder that holds a folder for each set.
      train: one training file for the eight of them, `commonsense_170k_taskid.json` or the like; empty trains on each
        set's own file.
      val_length: rows of each test set that evaluation during training reads; 0 for all.
    """

    val_length: int = 64
    root: str = ""
    train: str = ""

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        """Rows of a split, `train` or `val` (the published test files)."""
        root = fetched(self.root)
        if not root.is_dir():
            raise UserError(f"data.root: there is no folder {root}; it should hold {', '.join(tasks)}")
        if split == "train" and self.train:
            own = {task: file for task in COMMONSENSE if (file := root / task / "train.json").exists()}
            # Ids in the published file count all eight sets, whichever of them a run takes.
            found = read_rows(root / self.train, tuple(COMMONSENSE), own)
            extra = [task for task in tasks if task not in COMMONSENSE]
            return [row for row in found if row.task in tasks] + [
                row for task in extra for row in _one(root / task, task, split)
            ]
        return [row for task in tasks for row in _one(root / task, task, split)]


def _one(folder: Path, task: str, split: str) -> list[Row]:
    if task == commonsense_qa.TASK:
        return commonsense_qa.read_commonsense_qa(folder / commonsense_qa.FILES[split])
    path = folder / ("train.json" if split == "train" else "test.json")
    rows = read_rows(path, (task,))
    if not rows:
        raise UserError(f"{path} holds no rows of {task}")
    return rows

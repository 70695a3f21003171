"""A data set of your own: images of any sizes, and labels as png or npy.

    train.txt, val.txt        a name without its ending on each line
    images/NAME.jpg           or .jpeg, .png
    semseg/NAME.png           a folder for each task, named like it; or NAME.npy

| task | png | npy |
|---|---|---|
| semseg, human_parts | the class, 255 void; from 256 classes up of 16 bits, 65535 void | the same, `[H, W]` |
| saliency, edges | 0, 1, 255 void; or greys, 1 above half (`masks="grey"`) | 0 and 1; or 1 from one half up |
| normals | n = 2 v / 255 - 1, black unknown | `[H, W, 3]`, length 0 unknown |
| depth | 8 or 16 bits times `depth_unit` metres, 0 unknown | `[H, W]` metres, 0 or not finite unknown |

A task of your own says itself how its label is read (`Task.read`); by default it is an npy of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mtlora_jax.vision.datasets.data import DiskData, Tasks
from mtlora_jax.vision.datasets.files import Files, Label, Layout, open_files
from mtlora_jax.vision.tasks.task import Task

ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class FolderData(DiskData):
    """A data set of your own; see the module for the files. Classes are those that the run's tasks name.

    Attributes:
      root, preset, resize_labels, normals_y: see `DiskData`.
      images: the images' folder.
      folders: `{task: folder}` for those not named like their task.
      tasks: the tasks that it has labels of, in a mixture; empty stands for all of the run.
      gaps: an image may lack labels of some tasks; it trains and scores the others.
      masks: saliency and edges are kept as `classes` (0, 1, 255 void) or as `grey` (1 above one half).
      depth_unit: metres for each unit of a depth png.
      augment: the random augmentation of a published data set, or none.
    """

    images: str = "images"
    folders: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    gaps: bool = False
    masks: Literal["classes", "grey"] = "classes"
    depth_unit: float = 0.001
    augment: Literal["pascal", "nyud", "none"] = "pascal"

    def classes(self) -> Mapping[str, int | None] | None:
        return dict.fromkeys(self.tasks) if self.tasks else None

    def augmentation(self) -> str:
        return self.augment

    def layout(self, tasks: Tasks) -> Layout:
        place = {name: self.folders.get(name, name) for name in tasks}
        return Layout(
            name="your data set",
            split="{split}.txt",
            image=tuple(f"{self.images}/{{id}}{ending}" for ending in ENDINGS),
            labels={
                name: Label(((f"{place[name]}/{{id}}.png", f"{place[name]}/{{id}}.npy"),), partial(_read, task, self))
                for name, task in tasks.items()
            },
        )

    def native(self, split: str, tasks: Tasks, size: int = 0) -> Files:
        return open_files(self.root, self.layout(tasks), split, tasks, self.resize_labels, self.gaps)


def _read(task: Task, data: FolderData, paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    return task.read(paths[0], task, data)

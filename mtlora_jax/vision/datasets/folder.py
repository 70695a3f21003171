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

A task of your own says itself how its label is read (`Task.read`); by default it is an npy of numbers. Where a data set
numbers its classes in its own way, `numbers` and `void` say how: `--data.numbers.semseg=7,8,11` makes 7, 8 and 11 of
the files the classes 0, 1 and 2, and `--data.void.semseg=0,255` leaves pixels of 0 and 255 out. Pictures and labels are
read upright, as a camera's EXIF orientation asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.listing import listed
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
      numbers: `{task: (number, ...)}`, how the files number the classes 0, 1, ...; empty: like that.
      void: `{task: (number, ...)}`, further numbers of the files that count for nothing.
      augment: the random augmentation of a published data set, or none.
    """

    images: str = "images"
    folders: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    gaps: bool = False
    masks: Literal["classes", "grey"] = "classes"
    depth_unit: float = 0.001
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    void: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    augment: Literal["pascal", "nyud", "none"] = "pascal"

    def classes(self) -> Mapping[str, int | None] | None:
        return dict.fromkeys(self.tasks) if self.tasks else None

    def check(self, tasks: Tasks) -> None:
        for key, of in (("numbers", self.numbers), ("void", self.void)):
            for name, values in of.items():
                if name not in tasks or tasks[name].values is None:
                    raise UserError(f"data.{key}.{name}: the run has no task {name} of classes")
                if len(set(values)) < len(values):
                    raise UserError(f"data.{key}.{name} names a number twice")
                if key == "numbers" and len(values) != tasks[name].values:
                    raise UserError(
                        f"data.numbers.{name} names {len(values)} numbers, {name} has {tasks[name].values} classes"
                    )
                if key == "void" and (both := set(values) & set(self.numbers.get(name, ()))):
                    raise UserError(f"data.void.{name} and data.numbers.{name} both name {min(both)}")

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
    label = task.read(paths[0], task, data)
    numbers, void = data.numbers.get(task.name, ()), data.void.get(task.name, ())
    return renumbered(label, task, numbers, void, paths[0]) if numbers or void else label


def renumbered(
    label: np.ndarray, task: Task, numbers: Sequence[int], void: Sequence[int], path: Path | str
) -> np.ndarray:
    """A label `[H, W]` in the file's numbers, in a task's own.

    Args:
      numbers: what the file has for class 0, 1, ...; empty: the same.
      void: what the file has for nothing, beside the task's void value.
      path: named in messages.

    Raises:
      UserError: the label holds a number that is neither.
    """
    if label.dtype.kind not in "iu":
        raise UserError(f"{path}: {task.name} has no class numbers: leave it out of data.numbers and data.void")
    found = np.unique(label)
    known = {number: c for c, number in enumerate(numbers or range(task.values or 0))}
    known |= {n: int(task.void) for n in (int(task.void), *void) if n not in numbers}
    if strange := [int(n) for n in found if int(n) not in known]:
        raise UserError(
            f"{path}: holds {listed(map(str, strange))}, which data.numbers.{task.name} and data.void.{task.name} "
            "do not name"
        )
    return np.array([known[int(n)] for n in found], task.label_dtype)[np.searchsorted(found, label)]

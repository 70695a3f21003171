"""Published data sets prepared once as ArrayRecord (see `published_tfds`): the examples of their files."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.storage import fetched
from mtlora_jax.vision.datasets.data import DiskData, Preset, Tasks
from mtlora_jax.vision.datasets.examples import NativeExamples
from mtlora_jax.vision.datasets.files import Files, Layout, open_files
from mtlora_jax.vision.tasks import Task, task


@dataclass(frozen=True)
class PublishedData(DiskData):
    """Base of published data sets, which are read from their files, or from records prepared from them.

    Attributes:
      root, resize_labels: see `DiskData`.
      preset: transforms as `published`, slips included, or mended (`default`).
      normals_y: which way y points in the files. It is stated nowhere; the published rotation, and NYUDv2's own
        colours, have it point down.
      prepared: a folder of prepared records (`python -m mtlora_jax.data prepare`), read in the place of files.
      key: the data set's name in commands, and the name of its augmentation.
      published: where its files lie.
      counts: classes of its tasks that have classes.
    """

    preset: Preset = "published"
    normals_y: Literal["down", "up"] = "down"
    prepared: str | None = None

    key: ClassVar[str]
    published: ClassVar[Layout]
    counts: ClassVar[Mapping[str, int]]

    def classes(self) -> Mapping[str, int | None]:
        return {task: self.counts.get(task) for task in self.published.labels}

    def layout(self, tasks: Tasks) -> Layout:
        return self.published

    def augmentation(self) -> str:
        return self.key

    def files(self, split: str, tasks: Tasks) -> Files:
        """The examples of its files."""
        return open_files(self.root, self.published, split, tasks, self.resize_labels)

    def native(self, split: str, tasks: Tasks, size: int = 0) -> NativeExamples:
        if self.prepared is None:
            return self.files(split, tasks)
        return Prepared(self.key, split, tuple(tasks), self.prepared)


@dataclass(frozen=True)
class Prepared(NativeExamples):
    """Prepared examples, equal to those of the data set's files to the bit.

    Attributes:
      data_set: `pascal` or `nyud`.
      split: `train` or `val`.
      tasks: the tasks whose labels are read; a set prepared with more will do.
      data_dir: the folder that sets were prepared into.

    Raises:
      UserError: no such set has been prepared.
    """

    data_set: str
    split: str
    tasks: tuple[str, ...]
    data_dir: str

    def __post_init__(self):
        len(self)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        record = self._records[index]
        labels = {task: record["labels"][task] for task in self.tasks}
        return {
            "image": read.image(io.BytesIO(record["image"])),
            "labels": labels,
            "valid": dict.fromkeys(labels, np.bool_(True)),
            "id": np.int64(record["id"]),
        }

    def name(self, index: int) -> str:
        """What the split calls an example."""
        return self._records[index]["name"]

    def shape(self, index: int) -> tuple[int, int]:
        """`(H, W)` of a picture, from the head of its file."""
        return read.shape(io.BytesIO(self._records[index]["image"]))

    def __getstate__(self) -> dict:
        # Open files stay behind: a worker process opens its own.
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    @cached_property
    def _records(self) -> Any:
        return _open(self.data_set, self.split, self.tasks, self.data_dir)


def published_tasks(data: PublishedData, names: Iterable[str] = ()) -> dict[str, Task]:
    """The tasks of a published data set, in its classes: those named, or all."""
    known = data.classes()
    return {
        name: task(name, **({"classes": known[name]} if known[name] is not None else {})) for name in names or known
    }


def _open(data_set: str, split: str, tasks: Sequence[str], data_dir: str) -> Any:
    try:
        import tensorflow_datasets as tfds

        from mtlora_jax.vision.datasets.published_tfds import ALL, BUILDERS
    except ImportError as error:
        raise UserError(f"prepared data needs {error.name}: pip install -r requirements.txt") from None
    data_dir = str(fetched(data_dir))
    builder, skip = BUILDERS[data_set], tfds.decode.SkipDecoding()
    # tfds names a set's folder last, when all of it is written: no half of one is found here.
    names = sorted(
        path.parts[-3] for path in Path(data_dir, builder.name).glob(f"*/{builder.VERSION}/dataset_info.json")
    )
    for name in names:
        has = tuple(builder.LAYOUT.labels) if name == ALL else tuple(name.split("-"))
        # As published, human parts alone come without the images that show nobody.
        alone = tuple(tasks) == ("human_parts",)
        if has == tuple(tasks) if alone else set(tasks) <= set(has):
            unread = {task: skip for task in has if task not in tasks}
            found = builder(tasks=has, data_dir=data_dir)
            return found.as_data_source(split, decoders={"image": skip, "labels": unread})
    some = ",".join(tasks)
    raise UserError(
        f"no {builder.name} with {some} is prepared in {data_dir}: "
        f"python -m mtlora_jax.data prepare {data_set} --manual_dir ROOT --data_dir {data_dir} --tasks {some}"
    )

"""What both builders share: files read once by a pool of processes, written as ArrayRecord at native sizes.

tfds writes into a folder of another name and renames it when all is there, so nothing half-prepared is ever read.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from mtlora_jax.input.prefetch import Prefetcher
from mtlora_jax.vision.datasets.files import Files, Layout
from mtlora_jax.vision.datasets.prepared import PublishedData, published_tasks
from mtlora_jax.vision.tasks.task import Task

SPLITS = ("train", "val")


@dataclass
class Subset(tfds.core.BuilderConfig):
    """Which tasks' labels are prepared; only their files are needed.

    Attributes:
      tasks: in the layout's order.
    """

    tasks: tuple[str, ...] = ()


ALL = "all"


def subset(layout: Layout, tasks: Sequence[str] = ()) -> Subset:
    """The config of some tasks, of all by default; its name lists them."""
    chosen = tuple(task for task in layout.labels if not tasks or task in tasks)
    name = ALL if len(chosen) == len(layout.labels) else "-".join(chosen)
    return Subset(name=name, description=f"Labels: {', '.join(chosen)}.", tasks=chosen)


class PublishedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of a published layout; `DATA` is the class of its configs."""

    LAYOUT: ClassVar[Layout]
    DATA: ClassVar[type[PublishedData]]
    TEXT: ClassVar[str]

    def __init__(self, *, tasks: Sequence[str] = (), workers: int = 2, file_format: str | None = None, **kwargs):
        """`tasks` stand for a config; `workers` processes decode."""
        if tasks:
            config = subset(self.LAYOUT, tasks)
            kwargs["config"] = config.name if config.name == ALL else config
        self._workers = workers
        # The file formats that tfds would take by itself need TensorFlow.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def label(task: Task):
            shape = (None, None, *task.label_shape)
            return tfds.features.Tensor(shape=shape, dtype=task.label_dtype, encoding="zlib")

        return tfds.core.DatasetInfo(
            builder=self,
            description=self.TEXT,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "labels": {name: label(task) for name, task in self._tasks().items()},
                    "name": tfds.features.Text(),
                    "id": tfds.features.Scalar(np.int64),
                }
            ),
            disable_shuffling=True,  # record i is the split's i-th id
        )

    def _split_generators(self, dl_manager):
        data = self.DATA(root=str(dl_manager.manual_dir))
        files = {split: data.files(split, self._tasks()) for split in SPLITS}
        return {split: self._generate_examples(split, of) for split, of in files.items()}

    def _tasks(self) -> dict[str, Task]:
        return published_tasks(self.DATA(), self.builder_config.tasks)

    def _generate_examples(self, split: str, files: Files):
        with Prefetcher(Encoded(files), self._workers) as decoded:
            examples = decoded.run(range(len(files)))
            yield from enumerate(tqdm(examples, f"{self.name} {split}", len(files), unit=" images", leave=False))


@dataclass(frozen=True)
class Encoded:
    """`(i) -> example`, its image as the bytes of its file, which have been seen to decode."""

    files: Files

    def __call__(self, index: int) -> dict:
        example, entry = self.files[index], self.files.entries[index]
        image = io.BytesIO(entry.image.read_bytes())
        return {"image": image, "labels": example["labels"], "name": entry.id, "id": example["id"]}

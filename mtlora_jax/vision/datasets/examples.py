"""From native sizes and whatever labels there are to what a batch needs: S by S, every task there or marked missing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mtlora_jax.images import transforms
from mtlora_jax.input.protocols import Examples
from mtlora_jax.vision.tasks.task import Task


class NativeExamples(Examples):
    """Examples at the sizes they are kept in; an example may lack labels, and is not valid for their tasks.

    `[i]` is `{"image": uint8 [H, W, 3], "labels": {task: [H, W, ...]}, "valid": {task: bool}, "id": int64}`.
    """

    def name(self, index: int) -> str:
        """What an example is called, in the names of saved predictions."""
        return str(index)

    def shape(self, index: int) -> tuple[int, int]:
        """`(H, W)` of an image. This reads it; a subclass may know a shorter way."""
        return self[index]["image"].shape[:2]


def completed(example: dict, tasks: Mapping[str, Task], size: int) -> dict:
    """An example at S by S with a label of every task, in its dtype: void, and not valid, where there was none."""
    found, known = example["labels"], example["valid"]
    labels = {
        name: found[name].astype(task.label_dtype) if name in found else task.empty(size, size)
        for name, task in tasks.items()
    }
    valid = {name: np.bool_(known.get(name, False)) for name in tasks}
    return {"image": example["image"], "labels": labels, "valid": valid, "id": example["id"]}


@dataclass(frozen=True)
class Sized(Examples):
    """Native examples at S by S: `[i]` only resizes, `augmented(i, rng)` augments as well.

    Attributes:
      native: the examples.
      tasks: by name, in the batch's order.
      size: S, pixels.
      sample: `rng -> Augmentation`; None for none.
      preset: the transforms' preset.
    """

    native: NativeExamples
    tasks: Mapping[str, Task]
    size: int
    sample: Callable | None = None
    preset: transforms.Preset = transforms.DEFAULT

    def __len__(self) -> int:
        return len(self.native)

    def __getitem__(self, index: int) -> dict:
        example = transforms.evaluate(self.native[index], rules(self.tasks), self.size, self.preset)
        return completed(example, self.tasks, self.size)

    def augmented(self, index: int, rng: np.random.Generator) -> dict:
        if self.sample is None:
            return self[index]
        example = self.native[index]
        example = transforms.train(example, rules(self.tasks), rng, self.size, self.sample, self.preset)
        return completed(example, self.tasks, self.size)

    def source(self, index: int) -> str:
        return self.native.source(index)


@dataclass(frozen=True)
class Completed(Examples):
    """Examples at S by S that have labels of some tasks, with the other tasks marked missing.

    Attributes:
      examples: their own.
      tasks: all that the batch needs.
      size: S, pixels.
    """

    examples: Examples
    tasks: Mapping[str, Task]
    size: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        return completed(self.examples[index], self.tasks, self.size)

    def augmented(self, index: int, rng: np.random.Generator) -> dict:
        return completed(self.examples.augmented(index, rng), self.tasks, self.size)

    def source(self, index: int) -> str:
        return self.examples.source(index)


def rules(tasks: Mapping[str, Task]) -> dict[str, transforms.LabelTransform]:
    """What the transforms need to know of every task."""
    return {name: task.transform for name, task in tasks.items()}

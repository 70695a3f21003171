"""From native sizes and whatever labels there are to what a batch needs: S by S, every task there or marked missing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtlora_jax.images import transforms
from mtlora_jax.vision.tasks.task import VOID, Task


class Form(NamedTuple):
    """A label's shape after `[S, S]`, and its dtype."""

    shape: tuple[int, ...]
    dtype: type[np.generic]


def forms(tasks: Mapping[str, Task]) -> dict[str, Form]:
    """What batches hold of each task; unlike tasks, forms can be sent to worker processes."""
    return {name: Form(task.label_shape, task.label_dtype) for name, task in tasks.items()}


@dataclass(frozen=True)
class Sized:
    """A source of examples at S by S: `[i]` only resizes, `draw(i, rng)` moves at random as well.

    Attributes:
      source: of examples at native sizes; a task whose label one lacks is invalid for it, its label void.
      forms: by task, in the batch's order.
      size: S, pixels.
      motion: draws an augmentation from a generator; None for none.
      preset: of the transforms.
    """

    source: Any
    forms: Mapping[str, Form]
    size: int
    motion: Callable | None = None
    preset: transforms.Preset = transforms.DEFAULT

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return self._whole(transforms.evaluate(self.source[index], self.size, self.preset))

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        """One example under an augmentation that depends on the generator alone."""
        if self.motion is None:
            return self[index]
        return self._whole(transforms.train(self.source[index], rng, self.size, self.motion, self.preset))

    def _whole(self, example: dict) -> dict:
        found, known = example["labels"], example["valid"]
        labels, valid = {}, {}
        for name, form in self.forms.items():
            shape = (self.size, self.size, *form.shape)
            labels[name] = found[name].astype(form.dtype) if name in found else np.full(shape, VOID, form.dtype)
            valid[name] = np.bool_(known.get(name, False))
        return {"image": example["image"], "labels": labels, "valid": valid, "id": example["id"]}

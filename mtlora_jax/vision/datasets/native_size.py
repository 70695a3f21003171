"""Examples for scoring at native resolution: the network's input at S by S, labels at their own sizes on one canvas."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtlora_jax.images import transforms
from mtlora_jax.input.mixture import Mixture
from mtlora_jax.input.protocols import Examples
from mtlora_jax.vision.datasets.data import Data
from mtlora_jax.vision.datasets.examples import NativeExamples, rules
from mtlora_jax.vision.datasets.mixture import MixtureData
from mtlora_jax.vision.tasks.task import Task

STEP = 32
"""Canvases are a multiple of this many pixels high and wide."""


@dataclass(frozen=True)
class AtNativeSize(Examples):
    """Examples whose image is S by S and whose labels lie at their own size in the corner of a void canvas.

    `[i]` is `{"image": uint8 [S, S, 3], "labels": {task: [canvas, ...]}, "valid", "id", "size": int32 [2],
    "name": str}`, the name behind a prefix.
    """

    native: NativeExamples
    tasks: Mapping[str, Task]
    size: int
    canvas: tuple[int, int]
    preset: transforms.Preset
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.native)

    def __getitem__(self, index: int) -> dict:
        example = self.native[index]
        image = transforms.evaluate({**example, "labels": {}}, {}, self.size, self.preset)["image"]
        found = transforms.settle(example, rules(self.tasks), self.preset)["labels"]
        H, W = example["image"].shape[:2]
        labels = {name: task.empty(*self.canvas) for name, task in self.tasks.items()}
        for name in found:
            labels[name][:H, :W] = found[name]
        return {
            "image": image,
            "labels": labels,
            "valid": {name: np.bool_(example["valid"].get(name, False)) for name in self.tasks},
            "id": example["id"],
            "size": np.array([H, W], np.int32),
            "name": np.str_(f"{self.prefix}{self.native.name(index)}"),
        }


def at_native_size(data: Data, split: str, tasks: Mapping[str, Task], size: int) -> tuple[Examples, tuple[int, int]]:
    """A split's examples, and the canvas `(H, W)` that they all lie on.

    Args:
      size: S, the side of the network's input in pixels.
    """
    # Names of several data sets may be the same: each has a folder of its own.
    parts = {f"{name}/": of for name, of in data.sources.items()} if isinstance(data, MixtureData) else {"": data}
    opened = [(prefix, part, part.native(split, part.labelled(tasks), size)) for prefix, part in parts.items()]
    shapes = np.array([native.shape(i) for _, _, native in opened for i in range(len(native))])
    canvas = tuple((-(-shapes.max(0) // STEP) * STEP).tolist())
    sets = [
        AtNativeSize(native, tasks, size, canvas, part.transform_preset(), prefix) for prefix, part, native in opened
    ]
    return (sets[0] if len(sets) == 1 else Mixture(tuple(sets))), canvas

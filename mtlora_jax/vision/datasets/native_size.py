"""Examples for scoring at native resolution: the network's input at S by S, labels at their own sizes on one canvas."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtlora_jax.images import transforms
from mtlora_jax.input.mixture import Mixture
from mtlora_jax.vision.config import MixtureData, ScenesData, VisionConfig, labels_of
from mtlora_jax.vision.datasets.sized import Form, forms
from mtlora_jax.vision.datasets.sources import open_native, open_source, preset
from mtlora_jax.vision.tasks.task import VOID

STEP = 32
"""Canvases are a multiple of this many pixels high and wide."""


@dataclass(frozen=True)
class AtNativeSize:
    """Examples whose image is S by S and whose labels lie at their own size in the corner of a void canvas.

    `source[i]` is `{"image": uint8 [S, S, 3], "labels": {task: [canvas, ...]}, "valid", "id", "size": int32 [2],
    "name": str}`, the name behind a prefix.
    """

    source: Any
    forms: Mapping[str, Form]
    size: int
    canvas: tuple[int, int]
    preset: transforms.Preset
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[index]
        image = transforms.evaluate({**example, "labels": {}}, self.size, self.preset)["image"]
        found = transforms.settle(example, self.preset)["labels"]
        H, W = example["image"].shape[:2]
        labels = {name: np.full((*self.canvas, *form.shape), VOID, form.dtype) for name, form in self.forms.items()}
        for name in found:
            labels[name][:H, :W] = found[name]
        return {
            "image": image,
            "labels": labels,
            "valid": {name: np.bool_(example["valid"].get(name, False)) for name in self.forms},
            "id": example["id"],
            "size": np.array([H, W], np.int32),
            "name": np.str_(f"{self.prefix}{self.source.name(index) if hasattr(self.source, 'name') else index}"),
        }


def at_native_size(config: VisionConfig, split: str) -> tuple[AtNativeSize | Mixture, tuple[int, int]]:
    """A split's examples, and the canvas `(H, W)` that they all lie on."""
    whole, size = forms(config.task_objects()), config.backbone.image_size
    # Names of several data sets may be the same: each has a folder of its own.
    parts = (
        {f"{n}/": d for n, d in config.data.sources.items()}
        if isinstance(config.data, MixtureData)
        else {"": config.data}
    )
    sources = []
    for prefix, data in parts.items():
        labels = labels_of(data, config.tasks)
        own = replace(config, data=data, tasks={name: t for name, t in config.tasks.items() if name in labels})
        kept = transforms.DEFAULT if isinstance(data, ScenesData) else preset(data)
        sources.append((_open(own, split), kept, prefix))
    shapes = np.array([_shape(source, i, size) for source, *_ in sources for i in range(len(source))])
    canvas = tuple((-(-shapes.max(0) // STEP) * STEP).tolist())
    placed = [AtNativeSize(source, whole, size, canvas, kept, prefix) for source, kept, prefix in sources]
    return (placed[0] if len(placed) == 1 else Mixture(tuple(placed))), canvas


def _open(config: VisionConfig, split: str):
    if isinstance(config.data, ScenesData):
        return open_source(config, split)
    return open_native(config.data, config, split)


def _shape(source, index: int, size: int) -> tuple[int, int]:
    return source.shape(index) if hasattr(source, "shape") else (size, size)

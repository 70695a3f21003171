"""A data set of your own: images of any sizes, and labels as png or npy.

    train.txt, val.txt        a name without its ending on each line
    images/NAME.jpg           or .jpeg, .png
    semseg/NAME.png           a folder for each task, named like it; or NAME.npy

| task | png | npy |
|---|---|---|
| semseg, human_parts | the class (palette or grey), 255 void | the same, `[H, W]` |
| saliency, edges | 0, 1, 255 void; or greys, 1 above half (`masks="grey"`) | 0 and 1; or 1 from one half up |
| normals | n = 2 v / 255 - 1, black unknown | `[H, W, 3]`, length 0 unknown |
| depth | 8 or 16 bits times `depth_unit` metres, 0 unknown | `[H, W]` metres, 0 or not finite unknown |
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.vision.datasets.layout import Label, Layout
from mtlora_jax.vision.tasks.task import VOID

ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
Masks = Literal["classes", "grey"]


def _plane(path: Path) -> np.ndarray:
    """`[H, W]` of a png or npy."""
    return read.array(path, "H", "W") if path.suffix == ".npy" else read.indices(path)


def _classes(paths: Sequence[Path], shape) -> np.ndarray:
    label = _plane(paths[0])
    if label.dtype.kind == "f":
        if not np.array_equal(label, np.rint(label)):
            raise UserError(f"{paths[0]}: classes are whole numbers, these are not")
        label = label.astype(np.int64)
    return label


def _greys(paths: Sequence[Path], shape) -> np.ndarray:
    label = _plane(paths[0])
    half = 0.5 if paths[0].suffix == ".npy" else 127.5
    return (label >= half).astype(np.uint8)


def _normals(paths: Sequence[Path], shape) -> np.ndarray:
    path = paths[0]
    if path.suffix == ".npy":
        normals = read.array(path, "H", "W", "3").astype(np.float32)
    else:
        code = read.colours(path)
        normals = np.where(code.any(-1, keepdims=True), code * np.float32(2 / 255) - np.float32(1), np.float32(0))
    if normals.shape[-1] != 3:
        raise UserError(f"{path}: holds {list(normals.shape)}; numbers [H, W, 3] are needed")
    known = np.isfinite(normals).all(-1, keepdims=True) & ~(normals == VOID).all(-1, keepdims=True)
    normals = np.where(known, normals, 0)
    if np.abs(normals).max(initial=0) > 1.01:
        raise UserError(f"{path}: normals have components up to {np.abs(normals).max():g}; unit vectors are needed")
    return normals


def _depth(paths: Sequence[Path], shape, unit: float) -> np.ndarray:
    depth = _plane(paths[0]).astype(np.float32) * np.float32(1 if paths[0].suffix == ".npy" else unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def layout(
    folders: Mapping[str, str] | None = None,
    images: str = "images",
    masks: Masks = "classes",
    depth_unit: float = 0.001,
) -> Layout:
    """The layout of a folder.

    Args:
      folders: `{task: folder}` for those not named like their task.
      images: the images' folder.
      masks: how saliency and edges are kept.
      depth_unit: metres for each unit of a depth png.
    """
    readers: dict[str, Callable] = {
        "semseg": _classes,
        "human_parts": _classes,
        "saliency": _greys if masks == "grey" else _classes,
        "normals": _normals,
        "depth": partial(_depth, unit=depth_unit),
        "edges": _greys if masks == "grey" else _classes,
    }
    place = {task: (folders or {}).get(task, task) for task in readers}
    return Layout(
        name="your data set",
        split="{split}.txt",
        image=tuple(f"{images}/{{id}}{ending}" for ending in ENDINGS),
        labels={
            task: Label(((f"{place[task]}/{{id}}.png", f"{place[task]}/{{id}}.npy"),), reader)
            for task, reader in readers.items()
        },
    )

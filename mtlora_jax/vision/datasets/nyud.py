"""NYUDv2 for multi-task learning, as published (`NYUD_MT`): indoor images with four dense labels.

    gt_sets/{train,val}.txt       ids, 795 and 654 of them
    images/ID.jpg
    segmentation/ID.png           0 unknown, else the class, 1..40
    normals/ID.npy                [H, W, 3], 0 or not finite unknown
    depth/ID.npy                  metres, 0 or not finite unknown
    edge/ID.npy                   0 or 1

Only the files of the tasks asked for are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.vision.datasets.files import Label, Layout
from mtlora_jax.vision.datasets.prepared import PublishedData
from mtlora_jax.vision.tasks.task import VOID

CLASSES = {"semseg": 40}
NAMES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door"),
    *("window", "bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain"),
    *("dresser", "pillow", "mirror", "floor_mat", "clothes", "ceiling", "books", "refrigerator"),
    *("television", "paper", "towel", "shower_curtain", "box", "whiteboard", "person", "night_stand"),
    *("toilet", "sink", "lamp", "bathtub", "bag", "other_structure", "other_furniture", "other_prop"),
)
"""Of the 40 classes, in the data set's order."""


def _semseg(paths: Sequence[Path], shape) -> np.ndarray:
    label = read.indices(paths[0]).astype(np.int32)
    return np.where(label == 0, VOID, label - 1).astype(np.uint8)


def _normals(paths: Sequence[Path], shape) -> np.ndarray:
    normals = read.array(paths[0], "H", "W", "3")
    if normals.shape[-1] != 3:
        raise UserError(f"{paths[0]}: holds {list(normals.shape)}; numbers [H, W, 3] are needed")
    normals = read.floats(normals)
    return np.where(np.isfinite(normals).all(-1, keepdims=True), normals, np.float32(0))


def _depth(paths: Sequence[Path], shape) -> np.ndarray:
    depth = read.floats(read.array(paths[0], "H", "W"))
    return np.where(np.isfinite(depth), depth, np.float32(0))


def _edges(paths: Sequence[Path], shape) -> np.ndarray:
    return (read.array(paths[0], "H", "W") >= 0.5).astype(np.uint8)


LAYOUT = Layout(
    name="NYUDv2 (NYUD_MT)",
    split="gt_sets/{split}.txt",
    image=("images/{id}.jpg",),
    labels={
        "semseg": Label((("segmentation/{id}.png",),), _semseg),
        "normals": Label((("normals/{id}.npy",),), _normals),
        "depth": Label((("depth/{id}.npy",),), _depth),
        "edges": Label((("edge/{id}.npy",),), _edges),
    },
)


@dataclass(frozen=True)
class NyudData(PublishedData):
    """NYUDv2 as published; see the module for the files.

    Attributes:
      root: the folder that holds `gt_sets`; nothing is written there.
      preset, resize_labels, normals_y, prepared: see `PublishedData`.
    """

    key: ClassVar[str] = "nyud"
    published: ClassVar[Layout] = LAYOUT
    counts: ClassVar[Mapping[str, int]] = CLASSES

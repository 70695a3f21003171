"""PASCAL-Context for multi-task learning, as published (`PASCAL_MT`): VOC 2010 images with five dense labels.

    ImageSets/Context/{train,val}.txt     ids, 4,998 and 5,105 of them
    JPEGImages/ID.jpg
    semseg/VOC12/ID.png                   or semseg/pascal-context/ID.png: palette index 0..20, 255 void
    human_parts/ID.mat                    struct `anno` of PASCAL-Part
    normals_distill/ID.png                n = 2 v / 255 - 1
    sal_distill/ID.png                    salient where v / 255 > 0.5
    pascal-context/trainval/ID.mat        `LabelMap`, 459 classes: edges come from it, and where normals count

Only the files of the tasks asked for are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.images.thin import thin
from mtlora_jax.vision.datasets.data import Tasks
from mtlora_jax.vision.datasets.files import Entry, Files, Label, Layout
from mtlora_jax.vision.datasets.prepared import PublishedData

CLASSES = {"semseg": 21, "human_parts": 7}
PERSON = 15
"""VOC's number of the class, in `anno` as well."""

GROUPS = {
    1: "hair head lear rear lebrow rebrow leye reye mouth nose",
    2: "neck torso",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
"""PASCAL-Part's names of a person's parts, by the label they become (see `vision.tasks.human_parts.PARTS`)."""
GROUP_OF = {part: group for group, parts in GROUPS.items() for part in parts.split()}

VOC_IDS = (2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427)
"""Numbers of VOC's 20 classes among the 459 of `LabelMap`."""

_NORMALS = """
3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 62 65 66 68 69 72 73 78
83 84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 142 143 146 150 154 157 158 159 165 172 174 181
183 184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232 233 238 239 242 243 246 250 251 252 255
260 261 263 269 272 273 275 281 283 284 285 286 287 288 290 291 292 293 295 304 307 309 310 314 315 319 323 329
330 331 336 342 345 349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 401 403 405 407 408 411 412 413
414 417 419 421 423 427 429 430 432 440 441 442 443 444 446 454 457
"""
NORMALS_IDS = np.array(_NORMALS.split(), np.int64)
"""Classes of `LabelMap` whose normals count: those whose names NYUDv2 has too, and tvmonitor."""
HAS_NORMALS = np.isin(np.arange(2**16), NORMALS_IDS)
"""By class number, which fits 16 bits."""


def _semseg(paths: Sequence[Path], shape) -> np.ndarray:
    return read.indices(paths[0])


def _human_parts(paths: Sequence[Path], shape) -> np.ndarray:
    """Person by person, part by part, later ones over earlier ones; all 0 where nobody is to be seen."""
    people = _people(paths[0])
    label = np.zeros(people[0].mask.shape if people else shape, np.uint8)
    for person in people:
        for name, mask in person.parts:
            if name not in GROUP_OF:
                raise UserError(f"{paths[0]}: a person has no part {name!r}; known: {', '.join(GROUP_OF)}")
            label[mask != 0] = GROUP_OF[name]
    return label


class Person(NamedTuple):
    mask: np.ndarray
    parts: list[tuple[str, np.ndarray]]


def _people(path: Path) -> list[Person]:
    """The objects that are people, or none if no pixel shows one."""
    anno = read.mat(path, "anno")
    try:
        # Struct arrays come squeezed: one struct alone, none as an empty array.
        people = [
            Person(thing.mask, [(part.part_name, part.mask) for part in np.atleast_1d(thing.parts)])
            for thing in np.atleast_1d(anno.objects)
            if thing.class_ind == PERSON
        ]
    except AttributeError as error:
        needs = "anno.objects with class_ind, mask and parts (part_name, mask)"
        raise UserError(f"{path}: not a PASCAL-Part annotation, which needs {needs}: {error}") from None
    shapes = {np.shape(mask) for person in people for mask in (person.mask, *(m for _, m in person.parts))}
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        raise UserError(f"{path}: masks of different sizes, {', '.join(map(str, sorted(shapes)))}")
    return people if any(np.any(person.mask) for person in people) else []


def _saliency(paths: Sequence[Path], shape) -> np.ndarray:
    return (read.shares(paths[0]) > 0.5).astype(np.uint8)


def _normals(paths: Sequence[Path], shape) -> np.ndarray:
    normals = read.colours(paths[0]).astype(np.float32) * np.float32(2) / np.float32(255) - np.float32(1)
    label_map = _label_map(paths[1])
    if label_map.shape != normals.shape[:2]:
        raise UserError(f"{paths[0]} is {list(normals.shape[:2])}, but {paths[1]} is {list(label_map.shape)}")
    normals[~HAS_NORMALS[label_map]] = 0
    return normals


def _edges(paths: Sequence[Path], shape) -> np.ndarray:
    """Where the Laplacian of the class number is not 0, thinned. (Where four neighbours cancel out it is 0.)"""
    m = np.pad(_label_map(paths[0]), 1, mode="reflect")
    laplacian = m[:-2, 1:-1] + m[2:, 1:-1] + m[1:-1, :-2] + m[1:-1, 2:] - 4 * m[1:-1, 1:-1]
    return thin(laplacian != 0).astype(np.uint8)


def _label_map(path: Path) -> np.ndarray:
    found = read.mat(path, "LabelMap")
    if np.ndim(found) != 2 or not 0 <= np.min(found) <= np.max(found) < len(HAS_NORMALS):
        raise UserError(f"{path}: LabelMap is {list(np.shape(found))}; class numbers [H, W] are needed")
    return found.astype(np.int32)


MAP = ("pascal-context/trainval/{id}.mat",)
LAYOUT = Layout(
    name="PASCAL-Context (PASCAL_MT)",
    split="ImageSets/Context/{split}.txt",
    image=("JPEGImages/{id}.jpg",),
    labels={
        "semseg": Label((("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png"),), _semseg),
        "human_parts": Label((("human_parts/{id}.mat",),), _human_parts),
        "saliency": Label((("sal_distill/{id}.png",),), _saliency),
        "normals": Label((("normals_distill/{id}.png",), MAP), _normals),
        "edges": Label((MAP,), _edges),
    },
)


@dataclass(frozen=True)
class PascalData(PublishedData):
    """PASCAL-Context as published; see the module for the files.

    As published, images without people are left out where `human_parts` is the only task.

    Attributes:
      root: the folder that holds `JPEGImages`; nothing is written there.
      preset, resize_labels, normals_y, prepared: see `PublishedData`.
    """

    key: ClassVar[str] = "pascal"
    published: ClassVar[Layout] = LAYOUT
    counts: ClassVar[Mapping[str, int]] = CLASSES

    def files(self, split: str, tasks: Tasks) -> Files:
        files = super().files(split, tasks)
        if tuple(tasks) != ("human_parts",):
            return files
        entries = tuple(entry for entry in files.entries if _shows_people(entry))
        if not entries:
            raise UserError(f"human_parts: no image of split {split} in {self.root} shows people")
        return replace(files, entries=entries)


def _shows_people(entry: Entry) -> bool:
    try:
        return bool(_people(entry.labels["human_parts"][0]))
    except UserError as error:
        raise UserError(f"human_parts: {error}") from None

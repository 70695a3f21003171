"""Data sets as files: a layout says where a split's ids, images and labels lie; one class reads them all.

Nothing is ever written below a data set's root. What is missing is found when a split is opened, not in mid-epoch.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_text
from mtlora_jax.images import read, transforms
from mtlora_jax.storage import fetched
from mtlora_jax.vision.datasets.examples import NativeExamples
from mtlora_jax.vision.tasks.task import Task


@dataclass(frozen=True)
class Label:
    """How a task's label is kept.

    Attributes:
      files: the files that have to be there, each a tuple of alternatives like `semseg/{id}.png`; the first that
        exists is read.
      read: `(paths, shape) -> label`; `shape` is the image's `(H, W)`, for labels that leave theirs open.
    """

    files: tuple[tuple[str, ...], ...]
    read: Callable[[Sequence[Path], tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """Where everything lies below the root.

    Attributes:
      name: what messages call the data set.
      split: the file of a split's ids, like `ImageSets/{split}.txt`.
      image: alternatives, like those of `Label.files`.
      labels: where every task's label lies.
    """

    name: str
    split: str
    image: tuple[str, ...]
    labels: Mapping[str, Label]


class Entry(NamedTuple):
    """One example's files; a task whose label is missing is not among `labels`."""

    id: str
    image: Path
    labels: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Files(NativeExamples):
    """Examples in files, at their native sizes, decoded when asked for.

    The id is the index, `entries[id]` has the name. Unknown normals and depths are 0, other unknown labels void.

    Attributes:
      layout: says how labels are read.
      entries: the examples' files.
      tasks: by name.
      resize: bring labels of another size to the image's, as the reference does, rather than refuse them.

    Raises:
      UserError: on access, naming file and task: a damaged file, a label of another size or outside its classes.
    """

    layout: Layout
    entries: tuple[Entry, ...]
    tasks: Mapping[str, Task]
    resize: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        image = self.image(index)
        labels = {task: self.label(index, task, image.shape[:2]) for task in self.entries[index].labels}
        return {
            "image": image,
            "labels": labels,
            "valid": dict.fromkeys(labels, np.bool_(True)),
            "id": np.int64(index),
        }

    def image(self, index: int) -> np.ndarray:
        """One example's picture alone, uint8 `[H, W, 3]`."""
        with _about("image"):
            return read.image(self.entries[index].image)

    def name(self, index: int) -> str:
        """What the split calls an example."""
        return self.entries[index].id

    def source(self, index: int) -> str:
        return str(self.entries[index].image)

    def shape(self, index: int) -> tuple[int, int]:
        """`(H, W)` of a picture, from the head of its file."""
        with _about("image"):
            return read.shape(self.entries[index].image)

    def label(self, index: int, task: str, shape: tuple[int, int]) -> np.ndarray:
        """One label alone, of an image of `shape` `(H, W)`."""
        with _about(task):
            paths = self.entries[index].labels[task]
            label = self.layout.labels[task].read(paths, shape)
            if label.shape[:2] != shape:
                label = self._fitted(label, task, paths[0], shape)
            return self.tasks[task].checked(label, paths[0])

    def _fitted(self, label: np.ndarray, task: str, path: Path, shape: tuple[int, int]) -> np.ndarray:
        if not self.resize:
            sizes = f"{list(label.shape[:2])}, its image {list(shape)}"
            mend = "mend it, or train from the files with --data.resize_labels=True"
            raise UserError(f"{path}: the label is {sizes}; {mend}")
        return transforms.resize(label, shape, cubic=self.tasks[task].transform.cubic)


@contextlib.contextmanager
def _about(what: str) -> Iterator[None]:
    """Says in errors what the file was read for."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def open_files(
    root: str | Path,
    layout: Layout,
    split: str,
    tasks: Mapping[str, Task],
    resize: bool = False,
    gaps: bool = False,
) -> Files:
    """A split of a data set on disk; only the files of the tasks asked for have to be there.

    Args:
      gaps: an image may lack labels; it is invalid for those tasks. Images that have none of them are left out.

    Raises:
      UserError: no such root, split, image or label, or a split of no image.
    """
    entries, lacking = scan(root, layout, split, tasks)
    for what, paths in lacking.items():
        if what == "image" or not gaps or not any(what in entry.labels for entry in entries):
            raise UserError(_lacks(layout, split, what, paths))
    return Files(layout, tuple(entry for entry in entries if entry.labels), tasks, resize)


def scan(
    root: str | Path, layout: Layout, split: str, tasks: Iterable[str]
) -> tuple[list[Entry], dict[str, list[Path]]]:
    """The examples of a split whose image is there, and `{"image" or task: files that are not}`."""
    root, have, lacking, entries = fetched(root), _Listing(), {}, []
    for line in read_ids(root, layout, split):
        with _about("image"):
            images = {name: have.first(root, layout.image, name) for name in spellings(line)}
        name = next((name for name, image in images.items() if image is not None), line)
        image = images[name]
        if image is None:
            lacking.setdefault("image", []).append(root / layout.image[0].format(id=name))
            continue
        labels = {}
        for task in tasks:
            with _about(task):
                paths = [have.first(root, choices, name) for choices in layout.labels[task].files]
            if None not in paths:
                labels[task] = tuple(paths)
            else:
                gap = layout.labels[task].files[paths.index(None)][0]
                lacking.setdefault(task, []).append(root / gap.format(id=name))
        entries.append(Entry(name, image, labels))
    return entries, lacking


def read_ids(root: Path, layout: Layout, split: str) -> list[str]:
    """The ids of a split, in the file's order; UserError where there is no such root or split, or no id in it."""
    if root == Path():
        raise UserError(f"data.root is empty; give the folder of {layout.name} with --data.root=DIR")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give that of {layout.name} with --data.root=DIR")
    path = root / layout.split.format(split=split)
    if not path.exists():
        raise UserError(f"{path}, the ids of split {split}, is missing; is {root} the folder of {layout.name}?")
    ids = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{path} is empty: split {split} of {layout.name} names no image")
    return ids


def spellings(line: str) -> list[str]:
    """The ids that a line of a split file may mean, the line itself first: with the image's ending or folder, or with
    the label's file behind it."""
    found = [line]
    for said in (line, *line.split()[:1]):
        name = said.replace("\\", "/").rpartition("/")[2]
        found += [name, name.rpartition(".")[0]] if "." in name else [name]
    return list(dict.fromkeys(filter(None, found)))


class _Listing:
    """Which files exist, at the cost of one listing a folder."""

    def __init__(self):
        self.names = cache(_names)

    def first(self, root: Path, choices: Sequence[str], name: str) -> Path | None:
        paths = (root / choice.format(id=name) for choice in choices)
        return next((path for path in paths if path.name in self.names(path.parent)), None)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from None


def _lacks(layout: Layout, split: str, what: str, paths: Sequence[Path]) -> str:
    mend = f"leave {what} out of the tasks" if what != "image" else "take their ids out of the split"
    if not paths[0].parent.is_dir():
        return f"{what}: there is no folder {paths[0].parent} in this {layout.name}; fetch it, or {mend}"
    more = f" (and {len(paths) - 1} more of split {split})" if len(paths) > 1 else ""
    # A name with an invisible character is shown with its code, or nobody would find it.
    name = str(paths[0]) if str(paths[0]).isprintable() else ascii(str(paths[0]))
    return f"{what}: {name} is missing{more}; fetch it, or {mend}"

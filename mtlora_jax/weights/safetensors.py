"""Reading and writing safetensors: whole files, or folders of shards whose tensors are read when they are asked for."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mtlora_jax.errors import UserError, of_the_system, one_line
from mtlora_jax.files import replacing, write_json
from mtlora_jax.storage import is_remote, place
from mtlora_jax.weights.fingerprint import fingerprint
from mtlora_jax.weights.lazy import Lazy
from mtlora_jax.weights.ranged import DTYPES, Ranged

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors(Lazy):
    """`{name: array}` of one file or several; a tensor is read, in the dtype it is stored in, when it is asked for.

    Attributes:
      files: the file of every tensor, a path or the URL of one that stays in a store.
    """

    def __init__(self, files: Mapping[str, Path | str]):
        self.files = dict(files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def dtypes(self) -> dict[str, np.dtype]:
        """How every tensor is stored. Raises UserError for a number format that nothing here computes with."""
        found = {}
        for path in dict.fromkeys(self.files.values()):
            with _opened(path) as file:
                there = set(file.keys())
                for name in (name for name, of in self.files.items() if of == path):
                    if name not in there:
                        raise UserError(f"{path} lacks {name}, which {INDEX} says is in it")
                    found[name] = file.get_slice(name).get_dtype()
        if strange := {name: kind for name, kind in found.items() if kind not in DTYPES}:
            name, kind = next(iter(strange.items()))
            raise UserError(
                f"{self.files[name]}: {name} is stored as {kind} ({len(strange)} tensors are such): a quantised model "
                "is not read; give the original one"
            )
        return {name: np.dtype(DTYPES[kind]) for name, kind in found.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        with _opened(self.files[name]) as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        with _opened(self.files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, a slice for each axis; nothing else of it is read (in a store: no other rows)."""
        with _opened(self.files[name]) as file:
            return file.get_slice(name)[index]


def _is_there(path: Path | str) -> bool:
    return is_remote(path) or path.exists()


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """What reads a file, here or in a store. Raises UserError where it is damaged, or not a safetensors file."""
    try:
        if is_remote(path):
            yield Ranged(path)
        else:
            with safe_open(path, framework="numpy") as file:
                yield file
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is truncated, damaged, or not a safetensors file ({reason})") from None


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every tensor of a file, and its metadata.

    Raises:
      UserError: it is damaged, or not a safetensors file.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def metadata(path: str | Path) -> dict[str, str]:
    """What a file says beside its tensors; nothing of a file of another format."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def open_folder(folder: Path) -> Tensors:
    """The tensors of a Hugging Face folder: of `model.safetensors`, or of the shards that its index names.

    Raises:
      UserError: there is neither, the index is broken, or a shard that it names is missing.
    """
    index = folder / INDEX
    if index.exists():
        try:
            names = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{index} is not an index: it has no weight_map") from None
        files = {name: place(folder / file) for name, file in names.items()}
        if lost := [file for file in dict.fromkeys(files.values()) if not _is_there(file)]:
            raise UserError(f"{lost[0]} is missing, {index} names it; {len(lost)} of its files are: fetch them")
        return Tensors(files)
    path = place(folder / WEIGHTS)
    if not _is_there(path):
        if shards := sorted(folder.glob("*.safetensors")):
            raise UserError(f"{folder} holds {shards[0].name} and more, but not {INDEX}, which says what is where")
        if pickled := sorted(folder.glob("*.bin")):
            raise UserError(f"{folder} holds {pickled[0].name}; models are read from safetensors: save it as those")
        raise UserError(f"{folder} holds no weights: there is neither {WEIGHTS} nor {INDEX}")
    with _opened(path) as file:
        return Tensors(dict.fromkeys(file.keys(), path))


def write(path: str | Path, leaves: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes leaves by path `collection/module/.../leaf`, with JSON metadata; the file appears whole or not at all.

    Args:
      about: JSON values, one key each; a fingerprint of the leaves is added.
    """
    about = {**about, "fingerprint": fingerprint(leaves)}
    with replacing(path) as temporary:
        _save(leaves, temporary, {key: json.dumps(value) for key, value in about.items()})


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that other libraries read as a torch model's; it appears whole or not at all."""
    with replacing(path) as temporary:
        _save(tensors, temporary, {"format": "pt"})


def holds_weights(folder: Path) -> list[Path]:
    """The files of weights in a folder, and their index."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.index.json")])


def write_folder(folder: Path, tensors: Mapping[str, np.ndarray], sizes: Mapping[str, int], shard: int) -> None:
    """Writes tensors as a Hugging Face folder's weights, one shard in memory at a time.

    Args:
      tensors: may make a tensor when it is asked for.
      sizes: bytes of every tensor.
      shard: bytes of a file, at most; more weights are written as shards with an index.
    """
    files: list[list[str]] = [[]]
    room = shard
    for name, size in sizes.items():
        if size > room and files[-1]:
            files.append([])
            room = shard
        files[-1].append(name)
        room -= size
    weight_map = {}
    for number, names in enumerate(files, 1):
        file = WEIGHTS if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_tensors(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    if len(files) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


def _save(arrays: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    # A scalar made contiguous would be a vector.
    contiguous = {name: np.ascontiguousarray(x).reshape(np.shape(x)) for name, x in arrays.items()}
    try:
        save_file(contiguous, path, dict(metadata))
    except SafetensorError as error:
        raise UserError(
            f"{path.parent}: weights cannot be written: {of_the_system(error) or one_line(error)}"
        ) from None

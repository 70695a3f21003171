"""Pictures' features by id: from a file for each picture, as published, or from records that a command wrote."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json, write_text
from mtlora_jax.listing import listed

FEATURES = "clip_features/data_clip_RN101_att"
"""Where a set's features lie below its folder."""
INDEX = "features.json"


class Features(Protocol):
    """What the data code asks; it pickles."""

    def __getitem__(self, image: str) -> np.ndarray:
        """`[N, F]` of one picture. Raises UserError where it has none."""
        ...

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of some pictures that have no features."""
        ...


@dataclass(frozen=True)
class Files:
    """One HDF5 file for each picture: `<root>/<set>/clip_features/data_clip_RN101_att/<id>.h5`, with a group of the id
    that holds `features`."""

    root: str

    def __getitem__(self, image: str) -> np.ndarray:
        import h5py

        path, name = self._path(image), image.rpartition("/")[2]
        try:
            with h5py.File(path, "r") as file:
                found = file[name]["features"][()]
        except FileNotFoundError:
            raise UserError(f"picture {image} has no features: there is no {path}") from None
        except KeyError:
            raise UserError(f"{path} holds no {name}/features") from None
        except OSError as error:
            raise UserError(f"{path} is truncated, damaged, or no HDF5 file ({str(error).split('(')[-1]}") from None
        return checked(found, str(path))

    def missing(self, images: Iterable[str]) -> list[str]:
        paths = {image: self._path(image) for image in images}
        there = {
            folder: {file.name for file in folder.iterdir()} if folder.is_dir() else set()
            for folder in {path.parent for path in paths.values()}
        }
        return [image for image, path in paths.items() if path.name not in there[path.parent]]

    def _path(self, image: str) -> Path:
        group, _, name = image.partition("/")
        return Path(self.root) / group / FEATURES / f"{name}.h5"


@dataclass(frozen=True)
class Records:
    """Features in random-access records, as `write_shard` leaves them."""

    folder: str

    def __getitem__(self, image: str) -> np.ndarray:
        at = self._at.get(image)
        if at is None:
            raise UserError(f"picture {image} has no features in {self.folder}")
        shard, row = divmod(at, self._about["shard"])
        path = Path(self.folder) / shard_name(shard)
        reader = self._readers.get(shard)
        if reader is None:
            from array_record.python.array_record_module import ArrayRecordReader

            if not path.exists():
                raise UserError(f"{self.folder} is not whole: there is no {path.name}; run the command again")
            try:
                reader = self._readers[shard] = ArrayRecordReader(str(path))
            except (RuntimeError, ValueError) as error:
                raise UserError(f"{path} is damaged: {error}") from None
        shape = tuple(self._about["shape"])
        (stored,) = reader.read([row])
        return np.frombuffer(stored, np.float16).reshape(shape)

    def missing(self, images: Iterable[str]) -> list[str]:
        return [image for image in images if image not in self._at]

    def __getstate__(self) -> dict:
        # Open files stay behind: a worker process opens its own.
        return {"folder": self.folder}

    def __setstate__(self, state: dict) -> None:
        object.__setattr__(self, "folder", state["folder"])

    @cached_property
    def _about(self) -> dict[str, Any]:
        return read_index(Path(self.folder))

    @cached_property
    def _at(self) -> dict[str, int]:
        return {image: i for i, image in enumerate(self._about["images"])}

    @cached_property
    def _readers(self) -> dict[int, Any]:
        return {}


@dataclass(frozen=True, eq=False)
class Held:
    """Features in memory."""

    by_image: Mapping[str, np.ndarray]

    def __getitem__(self, image: str) -> np.ndarray:
        return self.by_image[image]

    def missing(self, images: Iterable[str]) -> list[str]:
        return [image for image in images if image not in self.by_image]


def checked(features: np.ndarray, where: str) -> np.ndarray:
    """`[N, F]`; UserError for another number of axes."""
    if features.ndim != 2:
        raise UserError(f"{where}: features have the shape {features.shape}, one of two axes is needed")
    return features


def check_features(features: Features, images: Sequence[str], width: int, pictures: str) -> None:
    """Raises UserError where pictures have no features, or features of another width than the model reads.

    Args:
      pictures: what messages call them.
    """
    if lost := features.missing(dict.fromkeys(images)):
        raise UserError(f"{len(lost)} {pictures} have no features: {listed(lost)}")
    if images and (found := features[images[0]].shape[1]) != width:
        raise UserError(
            f"features of {images[0]} are {found} wide, the model reads {width}: say --visual.features={found}"
        )


def shard_name(shard: int) -> str:
    return f"features-{shard:05d}.array_record"


def read_index(folder: Path) -> dict[str, Any]:
    """What is in a folder of records. Raises UserError where it is none."""
    path = folder / INDEX
    if not path.exists():
        raise UserError(f"{folder} holds no features: there is no {INDEX}")
    about = read_json(path)
    if not isinstance(about, dict) or not {"images", "shape", "shard", "encoder"} <= set(about):
        raise UserError(f"{path} is not the index of features")
    return about


def write_index(folder: Path, images: Sequence[str], shape: tuple[int, ...], shard: int, encoder: str) -> None:
    """Writes which record is of which picture, in the order of the records.

    Args:
      shape: of one picture's features.
      shard: records of a file.
      encoder: what made them.
    """
    about = {"encoder": encoder, "shape": list(shape), "shard": shard, "images": list(images)}
    write_text(folder / INDEX, json.dumps(about))


def write_shard(folder: Path, shard: int, features: Iterable[np.ndarray]) -> None:
    """Writes one file of records; it has its name only when it is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path = folder / shard_name(shard)
    part = path.with_suffix(".part")
    writer = ArrayRecordWriter(str(part), "group_size:1")
    for one in features:
        writer.write(np.ascontiguousarray(one, np.float16).tobytes())
    writer.close()
    part.rename(path)

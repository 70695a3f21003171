"""safetensors files that stay in a store: of a tensor the rows that are asked for are read, and nothing is kept.

A file is the length of its header in 8 bytes, the header in JSON, and the tensors in C order.
"""

import functools
import json
import math
from collections.abc import KeysView
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError

from mtlora_jax.storage import read_ranges

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
"""The formats of weights, by the names that files have for them."""
PIECE = 16 << 20
"""Bytes of one request, at most; several are under way at a time."""
LONGEST_HEADER = 100_000_000
"""Bytes, as the format says."""


class Tensor(NamedTuple):
    """One tensor of a file: as much of what `safe_open(...).get_slice` gives as is used here.

    Attributes:
      url: of the file.
      begin, end: its bytes there.
      kind: its dtype, by the name that files have for it.
    """

    url: str
    begin: int
    end: int
    kind: str
    shape: tuple[int, ...]

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return self.kind

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part, a slice of step 1 for each axis; of the first axis the rows between are read whole.

        Raises:
          SafetensorError: the file ends before them.
          UserError: the store cannot be reached.
        """
        if not self.shape:
            return self._rows(0, 1).reshape(())
        first, *others = index
        start, stop, _ = first.indices(self.shape[0])
        return self._rows(start, max(start, stop))[:, *others]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        dtype = np.dtype(DTYPES[self.kind])
        row = math.prod(self.shape[1:]) * dtype.itemsize
        data = _read(self.url, self.begin + start * row, self.begin + stop * row)
        return np.frombuffer(data, dtype).reshape(stop - start, *self.shape[1:])


class Ranged:
    """A file: as much of what `safe_open` gives as is used here.

    Raises:
      SafetensorError: it is damaged, or not a safetensors file.
      UserError: the store cannot be reached.
    """

    def __init__(self, url: str):
        self._tensors = _header(url)

    def keys(self) -> KeysView[str]:
        return self._tensors.keys()

    def get_slice(self, name: str) -> Tensor:
        return self._tensors[name]

    def get_tensor(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        return tensor[(slice(None),) * len(tensor.shape)]


@functools.lru_cache(maxsize=1024)
def _header(url: str) -> dict[str, Tensor]:
    size = int.from_bytes(_read(url, 0, 8), "little")
    if size > LONGEST_HEADER:
        raise SafetensorError("its header would be too long")
    try:
        header = json.loads(_read(url, 8, 8 + size))
        header.pop("__metadata__", None)
        found = {
            name: Tensor(url, *(8 + size + at for at in about["data_offsets"]), about["dtype"], tuple(about["shape"]))
            for name, about in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SafetensorError("it does not begin with a header") from None
    for name, (_, begin, end, kind, shape) in found.items():
        if kind in DTYPES and end - begin != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
            raise SafetensorError(f"{name} has {end - begin} bytes, and its shape other ones")
    return found


def _read(url: str, begin: int, end: int) -> bytes:
    edges = [*range(begin, end, PIECE), end]
    data = b"".join(read_ranges(url, edges))
    if len(data) != end - begin:
        raise SafetensorError(f"it ends before byte {end}")
    return data

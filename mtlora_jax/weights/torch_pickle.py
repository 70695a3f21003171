"""Reading torch checkpoints (`.pth`, `.pt`, `.bin`) without torch, and without running anything that is in them.

A checkpoint is a pickle, and a pickle is a program. Here its names are looked up in a table: what describes a tensor
becomes a description, a few harmless classes become inert dicts, and any other name is refused before it is called.
"""

import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from mtlora_jax.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAGICS = (ZIP_MAGIC, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's files begin: as archives of the zip format, or in the one before it as pickles."""
CONTAINERS = (
    *("model", "state_dict", "model_state_dict", "model_state", "module", "student", "teacher"),
    *("model_ema", "ema", "state_dict_ema", "ema_state_dict", "params_ema", "params"),
)
"""Under which keys training scripts keep the state dict beside other things, the first that is there is taken."""


@dataclass(frozen=True)
class Storage:
    """Bytes that tensors are views of.

    Attributes:
      dtype: torch's name of its elements' dtype, `untyped` for bytes.
      read: fetches all of it.
      start: element where this view of it begins.
    """

    dtype: str
    read: Callable[[], bytes]
    start: int = 0


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage, in elements."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The values, read-only; numpy raises where the view leaves its storage."""
        dtype = np.dtype(DTYPES[self.dtype])
        offset = (self.storage.start + self.offset) * dtype.itemsize
        strides = tuple(step * dtype.itemsize for step in self.stride)
        return np.ndarray(self.size, dtype, self.storage.read(), offset, strides)


class Inert(dict):
    """Stands for an object that is not a tensor: keeps the items it is given, if any, and does nothing."""

    __hash__ = object.__hash__

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __call__(self, *args, **kwargs):
        return Inert()

    def __setstate__(self, state):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


class Module(dict):
    """A module of a TorchScript archive: its attributes, tensors and modules among them. Its code is never read."""

    def __setstate__(self, state):
        self.update(state)

    def state_dict(self, prefix: str = "") -> dict[str, "Tensor"]:
        """The tensors of it and of the modules in it, by the names that torch would give them."""
        found: dict[str, Tensor] = {}
        for name, value in self.items():
            if isinstance(value, Module):
                found |= value.state_dict(f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
        return found


class Table(dict):
    """An ordered dict, without the attributes that torch hangs on it."""

    def __setstate__(self, state):
        pass


def _rebuild(storage, offset, size, stride, *ignored) -> Tensor:
    return Tensor(storage, storage.dtype, offset, tuple(size), tuple(stride))


def _rebuild_untyped(storage, offset, size, stride, requires_grad, hooks, dtype, *ignored) -> Tensor:
    return Tensor(storage, dtype, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data, *ignored) -> Tensor:
    return data


def _rebuild_subclass(rebuild, kind, args, state) -> Tensor:
    return rebuild(*args)


DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
}
CHOSEN = "the state dict that was taken"
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
UNTYPED = "untyped"

NAMES: dict[str, Any] = {
    "collections.OrderedDict": Table,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.storage.UntypedStorage": UNTYPED,
    "torch.storage._UntypedStorage": UNTYPED,
    # Names of dtypes and not dtypes: a pickle could change an object that the whole process shares.
    **{f"torch.{name}": name for name in DTYPES},
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
}
"""What a pickle may name, and what it gets."""

INERT = (
    r"yacs\.config\.CfgNode",
    r"argparse\.Namespace",
    r"collections\.(defaultdict|Counter)",
    r"numpy\.(\w+\.)*(scalar|dtype|ndarray|_reconstruct|\w*DType|float64|float32|int64|bool_?)",
    r"_codecs\.encode",
    r"copy_?reg\._reconstructor",
    r"(builtins|__builtin__)\.(object|list|dict|tuple|complex|slice|bytearray|str|int|float|bool)",
    r"torch\.(device|Tensor|Generator|strided|preserve_format|contiguous_format)",
    r"torch\.nn\.parameter\.(Parameter|Buffer)",
    r"torch\.serialization\._get_layout",
    r"pathlib\.\w*Path",
    r"torch\.jit\._pickle\.\w+",
)
"""Names that occur beside the weights in training checkpoints; objects of them come back as inert dicts."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storage: Callable[..., Storage]):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in NAMES:
            return NAMES[full]
        if module.startswith("__torch__"):
            return Module
        if any(re.fullmatch(pattern, full) for pattern in INERT):
            return Inert
        raise UserError(
            f"it names {full}, which is code and not a tensor; nothing of it was run. "
            "Save the state dict alone, or as safetensors"
        )

    def persistent_load(self, pid: tuple) -> Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage":
            raise ValueError(f"a persistent object of kind {kind!r}")
        return self.storage(dtype, str(key), view)


def read(path: str | Path, container: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A checkpoint's weights, and what lies beside them.

    Args:
      path: a file in torch's zip format, or in the one before it; or a TorchScript archive.
      container: which of several state dicts; empty takes the first of `CONTAINERS` that is there.

    Returns:
      The state dict as read-only arrays, and the rest (a config as nested dicts, other objects inert, tensors unread);
      `CHOSEN` in it says which state dict it was and which others there are, where there are several.

    Raises:
      UserError: the file is truncated, damaged, no checkpoint, or holds code. Nothing in it is ever executed.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(ZIP_MAGIC))
            file.seek(0)
            tree = (_read_zip if head == ZIP_MAGIC else _read_legacy)(file)
            return _pick(tree.state_dict() if isinstance(tree, Module) else tree, container)
    except UserError as error:
        raise UserError(f"{path} is not read: {_one_line(error)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # A hostile or damaged pickle can fail in any way at all.
        reason = _one_line(error) or type(error).__name__
        raise UserError(f"{path} is truncated, damaged, or no torch checkpoint ({reason})") from None


def _one_line(error: Exception) -> str:
    """A message in plain characters: a hostile file may have chosen them."""
    return ascii(str(error))[1:-1]


def _pick(tree: Any, container: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not isinstance(tree, Mapping):
        raise UserError("it holds no state dict")
    there = [key for key, value in tree.items() if _is_state_dict(value)]
    if container and container not in there:
        raise UserError(f"it holds no {container}, but {', '.join(map(str, there)) or 'one state dict alone'}")
    found = container or next((key for key in CONTAINERS if key in there), None)
    weights = tree if found is None else tree[found]
    arrays = {key: value.array() for key, value in weights.items() if isinstance(value, Tensor)}
    if not arrays:
        choose = f"; choose one of {', '.join(map(str, there))} with #NAME behind the path" if there else ""
        raise UserError(f"it holds no tensors by name{choose}")
    rest = {key: value for key, value in tree.items() if key not in arrays and key != found}
    others = [key for key in there if key != found]
    return arrays, rest | ({CHOSEN: f"{found}, not {', '.join(map(str, others))}"} if others else {})


def _is_state_dict(value: Any) -> bool:
    """Whether all of a mapping are tensors; an optimizer's state has other things among them."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _read_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    root = next(name for name in names if name.split("/")[-1] == "data.pkl").removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise UserError("its bytes are in big-endian order")
    cache: dict[str, bytes] = {}

    def fetch(key: str) -> bytes:
        if key not in cache:
            entry = archive.getinfo(f"{root}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed tensors")
            cache[key] = archive.read(entry)
        return cache[key]

    def storage(dtype: str, key: str, view: list) -> Storage:
        return Storage(dtype, lambda: fetch(key))

    with archive.open(f"{root}data.pkl") as pickled:
        return _Unpickler(pickled, storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Three header pickles, the object, the storages' keys, then each storage as its length and its bytes."""
    itemsize: dict[str, int] = {}
    data: dict[str, bytes] = {}

    def storage(dtype: str, key: str, view: list) -> Storage:
        itemsize[key] = 1 if dtype == UNTYPED else np.dtype(DTYPES[dtype]).itemsize
        return Storage(dtype, lambda: data[key], start=view[0][1] if view and view[0] else 0)

    def unpickle() -> Any:
        return _Unpickler(file, storage).load()

    if unpickle() != LEGACY_MAGIC:
        raise UserError("it is not a torch checkpoint")
    unpickle()
    if unpickle().get("little_endian") is not True:
        raise UserError("its bytes are in big-endian order")
    tree = unpickle()
    for key in unpickle():
        (length,) = struct.unpack("<q", file.read(8))
        data[key] = file.read(length * itemsize[key])
        if len(data[key]) != length * itemsize[key]:
            raise ValueError("it ends inside a tensor")
    return tree

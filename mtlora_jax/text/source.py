"""Where a language run starts: a pretrained folder, another run, or the adapter file that a run or the converter left.

All three give a shape, the folder with the tokenizer, and leaves by path.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax import schema
from mtlora_jax.adapters.quantized import Kind
from mtlora_jax.engine import tables
from mtlora_jax.engine.borrowed import Borrowed, check_meaning, from_run, run_named
from mtlora_jax.engine.run import Run, open_run
from mtlora_jax.errors import UserError
from mtlora_jax.language.adapter import Adapter, settings
from mtlora_jax.storage import exists, fetched
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.llama_weights import open_llama, read_spec
from mtlora_jax.text.quantized import Quantized
from mtlora_jax.weights import safetensors
from mtlora_jax.weights.fingerprint import fingerprint
from mtlora_jax.weights.hub import locate_folder
from mtlora_jax.weights.lazy import Lazy

ADAPTER_FILE = "adapter.safetensors"


def identity(spec: LlamaSpec) -> str:
    """A decoder's shape as text: heads and rotary settings change what weights compute, and are in none of them."""
    return json.dumps(schema.encode(spec, LlamaSpec), sort_keys=True)


class Folder:
    """A pretrained model in a Hugging Face folder, an embedded one, or on the hub."""

    def __init__(self, name: str):
        self.base = name

    @property
    def spec(self) -> LlamaSpec:
        return read_spec(locate_folder(self.base))

    @property
    def tokenizer(self) -> Path:
        return locate_folder(self.base)

    def leaves(self, only: str, quantize: Kind) -> Mapping[str, Any]:
        if only:
            raise UserError("init_only says what is taken of another run; a pretrained model is taken whole")
        return stored(open_llama(locate_folder(self.base))[1], quantize)


@dataclass(frozen=True)
class OfRun:
    """Another run at one of its steps.

    Attributes:
      run: it.
      step: `best`, `last`, or a number.
    """

    run: Run
    step: str

    @cached_property
    def _beginning(self) -> Any:
        return source_of(self.run.config.init_from)

    @property
    def base(self) -> str | None:
        return None if self._beginning is None else self._beginning.base

    @property
    def spec(self) -> LlamaSpec:
        return self.run.config.model if self._beginning is None else self._beginning.spec

    @property
    def adapter(self) -> Adapter | None:
        return self.run.config.adapter

    @property
    def tokenizer(self) -> Path:
        if self.run.config.tokenizer or self._beginning is None:
            return fetched(self.run.config.tokenizer)
        return self._beginning.tokenizer

    def leaves(self, only: str, quantize: Kind) -> Borrowed:
        check_quantize(str(self.run.workdir), self.run.config.quantize, quantize)
        return from_run(self.run, self.step, only)


class AdapterFile(Folder):
    """The adapters of a run, and the folder of the base they belong to.

    Args:
      path: an `adapter.safetensors`.
      base: the base, where it no longer lies where the file says.

    Raises:
      UserError: it is another kind of file.
    """

    def __init__(self, path: Path, base: str | None = None):
        self.path = path
        self.adapters, about = safetensors.read(path)
        if "adapter" not in about:
            raise UserError(f"{path} is not an adapter file of a run: a finished run leaves one, {ADAPTER_FILE}")
        told = {key: json.loads(about[key]) for key in ("adapter", "tasks", "init_from", "base")}
        self.adapter: Adapter = schema.decode(told["adapter"], Adapter, "adapter")
        self.quantize: Kind = json.loads(about.get("quantize", '"none"'))
        super().__init__(base or told["init_from"])
        self.tasks, self._fingerprint = tuple(told["tasks"]), told["base"]

    def leaves(self, only: str, quantize: Kind) -> Borrowed:
        """Those of the base and of the adapters. Raises UserError where it is another base."""
        check_quantize(str(self.path), self.quantize, quantize)
        spec, floats = open_llama(locate_folder(self.base))
        base = stored(floats, quantize)
        if fingerprint({path: np.asarray(base[path]) for path in base}, identity(spec)) != self._fingerprint:
            raise UserError(f"{self.path} was trained on another base than {self.base}: their fingerprints differ")
        return Borrowed(Both(base, self.adapters), str(self.path), only)


def stored(leaves: Mapping[str, Any], quantize: Kind) -> Mapping[str, Any]:
    """A pretrained model's leaves as a run keeps them."""
    return leaves if quantize == "none" else Quantized(leaves, quantize)


def check_quantize(where: str, theirs: Kind, ours: Kind) -> None:
    """Raises UserError where adapters would be put on a base that is stored otherwise than theirs was."""
    if theirs != ours:
        raise UserError(f"{where} was trained with quantize = {theirs}, this run has {ours}: say --quantize={theirs}")


def leaves_for(
    adapter: Adapter | None, init_from: str | None, init_only: str, quantize: Kind
) -> Mapping[str, Any] | None:
    """The leaves that a run with these adapters starts from; None for a model that is drawn.

    Raises:
      UserError: the source cannot be read, or has adapters that would mean something else here.
    """
    source = source_of(init_from)
    if source is None:
        return None
    leaves = source.leaves(init_only, quantize)
    if isinstance(leaves, Borrowed) and None not in (adapter, source.adapter):
        equal = adapter.rank == source.adapter.rank
        check_meaning(leaves, settings(adapter, equal), settings(source.adapter, equal))
    return leaves


def write_adapter(
    path: Path, lora: Mapping[str, Any], adapter: Adapter, tasks: Sequence[str], base: str, digest: str, **more: Any
) -> None:
    """Writes what `AdapterFile` reads.

    Args:
      lora: the adapters' collection.
      base: what they belong to.
      digest: its fingerprint.
      more: whatever JSON should come along.
    """
    leaves = {f"lora/{at}": np.asarray(leaf) for at, leaf in tables.flatten(lora).items()}
    about = {"adapter": schema.encode(adapter, Adapter), "tasks": list(tasks), "init_from": base, "base": digest}
    safetensors.write(path, leaves, {**more, **about})


class Both(Lazy):
    """Leaves of two mappings, those of the first read when they are asked for."""

    def __init__(self, lazy: Any, rest: Mapping[str, np.ndarray]):
        self._lazy, self._rest = lazy, rest

    def __iter__(self) -> Iterator[str]:
        yield from self._lazy
        yield from self._rest

    def __len__(self) -> int:
        return len(self._lazy) + len(self._rest)

    def __getitem__(self, path: str) -> np.ndarray:
        return self._rest[path] if path in self._rest else self._lazy[path]

    def shape(self, path: str) -> tuple[int, ...]:
        return self._rest[path].shape if path in self._rest else self._lazy.shape(path)


def source_of(init_from: str | None) -> Folder | OfRun | AdapterFile | None:
    """What an `init_from` names; None where the model is drawn from the seed."""
    if init_from is None:
        return None
    if named := run_named(init_from):
        directory, step = named
        return OfRun(open_run(directory), step)
    if init_from.endswith(".safetensors") and exists(init_from):
        return AdapterFile(fetched(init_from))
    return Folder(init_from)

"""Language models of runs, and of the adapter files that runs leave: adapters with all that is needed to use them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, merge
from mtlora_jax.adapters.quantized import Kind, dequantized
from mtlora_jax.cli import open_trained
from mtlora_jax.convert.effect import check_acts, check_merged
from mtlora_jax.convert.language import Model, abstract_adapters, adapted_layers, adapters_of
from mtlora_jax.convert.llama_folder import write_folder
from mtlora_jax.convert.out import check_out
from mtlora_jax.engine import tables
from mtlora_jax.engine.run import Step, open_run
from mtlora_jax.errors import UserError
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.language.tokenizer import Tokenizer, load_tokenizer
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.examples import tokenizer_of
from mtlora_jax.text.llama import Llama
from mtlora_jax.text.source import AdapterFile, identity, source_of, write_adapter
from mtlora_jax.text.workload import make_model
from mtlora_jax.weights.fingerprint import fingerprint
from mtlora_jax.weights.hub import locate_folder, tensors_in

OPTIONS = ("up_projections", "temperature", "diagonal", "experts", "embedding")
"""Options of `Adapter` that methods call alike."""


def read_model(
    path: str | Path, base: str | None = None, step: Step = "last", arguments: Sequence[str] = ()
) -> tuple[*Model, str]:
    """`(model, variables, base)` of a run's directory, or of an `adapter.safetensors`; all weights are floats.

    Args:
      base: the base model, where it no longer lies where the adapter file says.
      step: which checkpoint of a run.
      arguments: overrides of a run's config, such as `--init_from=DIR`.

    Raises:
      UserError: neither of the two, damaged, or the base is not the one that the adapters were trained on.
    """
    path = Path(path)
    if path.is_dir():
        run = open_trained(path, [*arguments, *([f"--init_from={base}"] if base else [])])
        if not isinstance(run.config, TextConfig):
            raise UserError(f"{path} holds no run of a language model: {type(run.config).__name__}")
        model, variables = (
            make_model(run.config).clone(dtype=None, quantize="none"),
            jax.device_get(run.variables(step)),
        )
        begun = source_of(run.config.init_from)
        source = (None if begun is None else begun.base) or str(path)
    else:
        model, variables, source = _read_adapter_file(path, base)
    variables |= {"params": jax.device_get(dequantized(variables["params"]))}
    if model.adapters:
        check_acts(variables, adapted_layers(model), str(path))
    return model, variables, source


def _read_adapter_file(path: Path, base: str | None) -> tuple[*Model, str]:
    source = AdapterFile(path, base)
    variables = traverse_util.unflatten_dict(dict(source.leaves("", source.quantize)), sep="/")
    model = Llama(source.spec, source.adapter.table(source.tasks))
    wanted, leaves = abstract_adapters(model), source.adapters
    if set(wanted) != set(leaves) or any(leaves[name].shape != wanted[name].shape for name in wanted):
        raise UserError(f"{path} is damaged: its leaves are not those of the adapter it describes")
    count = len(tables.flatten(variables)) - len(leaves)
    print(f"{path}: {count} leaves from {source.base}, {len(leaves)} of adapters", file=sys.stderr)
    return model, variables, source.base


def kept_in(source: str | Path) -> Kind:
    """How the base of a run, or of an adapter file, is stored."""
    return open_run(source).config.quantize if Path(source).is_dir() else AdapterFile(Path(source)).quantize


def merge_task(
    source: str | Path,
    out: Path,
    task: str | None,
    base: str | None = None,
    step: Step = "last",
    dtype: str | None = None,
    overwrite: bool = False,
    dequantize: bool = False,
    arguments: Sequence[str] = (),
) -> str:
    """Writes a plain model with one task's adapters folded into its kernels, as a Hugging Face folder.

    Args:
      base: the base model, where it has moved.
      dtype: of all written weights; None keeps each tensor's own. Updates are added in float32 and rounded once.
      overwrite: weights in `out` may be replaced; the base's never.
      dequantize: a base in 8 or 4 bits is written as the floats that its codes stand for.

    Raises:
      UserError: see `read_model`; or the method does not merge, or the base is quantised and nobody asked for floats.
    """
    if (kind := kept_in(source)) != "none" and not dequantize:
        raise UserError(
            f"{source}: its adapters belong to a base in {kind}, not to the floats that it was made of; --dequantize "
            "folds them into the floats that the codes stand for"
        )
    model, variables, found = read_model(source, base, step, arguments)
    folder = None if Path(found) == Path(source) else locate_folder(found)
    check_out(out, overwrite, *([] if folder is None else [folder]), Path(source))
    layers = adapted_layers(model)
    try:
        plain = jax.device_get(merge(variables, layers, task))
    except CannotMerge as reason:
        raise UserError(f"{source}: {reason}") from None
    check_merged(variables["params"], plain["params"], variables, layers, str(source))
    tokenizer, files = tokenizer_beside(source, folder)
    dtypes = {} if folder is None else tensors_in(folder).dtypes()
    if dtype is not None:
        plain["params"] = jax.tree.map(lambda leaf: leaf.astype(np.dtype(dtype)), plain["params"])
        dtypes = {}
    written = write_folder(out, model.spec, plain["params"], folder, tokenizer, files, dtypes)
    what = f"{len(layers)} projections of {model.spec.layers} layers with {task or 'the adapters'} folded in"
    return f"{what}; {', '.join(written)}"


def tokenizer_beside(source: str | Path, folder: Path | None) -> tuple[Tokenizer | None, Path | None]:
    """A run's tokenizer and where its files are, or those of a base's folder; None where there is none."""
    if Path(source).is_dir():
        config = open_run(source).config
        return tokenizer_of(config), Path(config.tokenizer) if config.tokenizer else None
    try:
        return load_tokenizer(folder), None
    except UserError:
        return None, None


def adapter_file(out: Path, model: Llama, variables: Mapping[str, Any], base: str, source: str) -> str:
    """Writes adapters that came from elsewhere as the adapter file of a run, which is an `init_from`."""
    adapters = adapters_of(model)
    specs = set(adapters.values())
    if len(specs) > 1:
        raise UserError(f"{source}: its projections differ in rank or scale, which no one adapter of a config has")
    spec = specs.pop()
    more = {name: getattr(spec, name) for name in OPTIONS if hasattr(spec, name)}
    sites = tuple(f"^{site}$" for site in adapters)
    adapter = Adapter(spec.method, spec.rank, spec.scale * spec.rank, dropout=0.0, sites=sites, **more)
    digest = fingerprint({"params": variables["params"]}, identity(model.spec))
    write_adapter(out, variables["lora"], adapter, getattr(spec, "tasks", ()), base, digest, source=source)
    count = len(tables.flatten(variables["lora"]))
    return f"{count} leaves of {spec.method} of rank {spec.rank} for {base}; train or evaluate with --init_from={out}"

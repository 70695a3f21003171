"""Language models of runs, and of the adapter files that runs leave: adapters with all that is needed to use them."""

import sys
from pathlib import Path

import jax
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, merge
from mtlora_jax.convert.effect import check_acts, check_merged
from mtlora_jax.convert.language import Model, abstract_adapters, adapted_layers
from mtlora_jax.engine import tables
from mtlora_jax.engine.run import Step, open_run
from mtlora_jax.errors import UserError
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.llama import Llama
from mtlora_jax.text.llama_weights import save_llama
from mtlora_jax.text.source import AdapterFile, source_of
from mtlora_jax.text.workload import make_model


def read_model(path: str | Path, base: str | None = None, step: Step = "last") -> tuple[*Model, str]:
    """`(model, variables, base)` of a run's directory, or of an `adapter.safetensors`.

    Args:
      base: the base model, where it no longer lies where the adapter file says.
      step: which checkpoint of a run.

    Raises:
      UserError: neither of the two, damaged, or the base is not the one that the adapters were trained on.
    """
    path = Path(path)
    if path.is_dir():
        run = open_run(path)
        if not isinstance(run.config, TextConfig):
            raise UserError(f"{path} holds no run of a language model: {type(run.config).__name__}")
        model, variables = make_model(run.config).clone(dtype=None), jax.device_get(run.variables(step))
        begun = source_of(run.config.init_from)
        source = (None if begun is None else begun.base) or str(path)
    else:
        model, variables, source = _read_adapter_file(path, base)
    if model.adapters:
        check_acts(variables, adapted_layers(model), str(path))
    return model, variables, source


def _read_adapter_file(path: Path, base: str | None) -> tuple[*Model, str]:
    source = AdapterFile(path, base)
    variables = traverse_util.unflatten_dict(dict(source.leaves()), sep="/")
    model = Llama(source.spec, source.adapter.table(source.tasks))
    wanted, leaves = abstract_adapters(model), source.adapters
    if set(wanted) != set(leaves) or any(leaves[name].shape != wanted[name].shape for name in wanted):
        raise UserError(f"{path} is damaged: its leaves are not those of the adapter it describes")
    count = len(tables.flatten(variables)) - len(leaves)
    print(f"{path}: {count} leaves from {source.base}, {len(leaves)} of adapters", file=sys.stderr)
    return model, variables, source.base


def merge_task(source: str | Path, out: Path, task: str | None, base: str | None = None, step: Step = "last") -> str:
    """Writes a plain model with one task's adapters folded into its kernels, as a Hugging Face folder.

    Raises:
      UserError: see `read_model`; or the method does not merge.
    """
    model, variables, _ = read_model(source, base, step)
    layers = adapted_layers(model)
    try:
        plain = jax.device_get(merge(variables, layers, task))
    except CannotMerge as reason:
        raise UserError(f"{source}: {reason}") from None
    check_merged(variables["params"], plain["params"], variables, layers, str(source))
    save_llama(out, model.spec, plain["params"])
    return f"{len(layers)} projections of {model.spec.layers} layers with {task or 'the adapters'} folded in"

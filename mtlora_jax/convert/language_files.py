"""Language models of runs, and of the adapter files that runs leave: adapters with all that is needed to use them."""

import json
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from mtlora_jax import schema
from mtlora_jax.adapters import CannotMerge, merge, sites
from mtlora_jax.convert.language import Model
from mtlora_jax.engine import tables
from mtlora_jax.engine.run import config_of, trained_variables
from mtlora_jax.engine.state import fingerprint
from mtlora_jax.errors import UserError
from mtlora_jax.text.adapter import Adapter
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.llama import Llama, init
from mtlora_jax.text.llama_weights import folder_of, read_llama, save_llama
from mtlora_jax.text.workload import make_model, make_workload
from mtlora_jax.weights import source as sources


def read_model(path: str | Path, base: str | None = None) -> tuple[*Model, str]:
    """`(model, variables, base)` of a run's directory, or of an `adapter.safetensors`.

    Args:
      base: the base model, where it no longer lies where the adapter file says.

    Raises:
      UserError: neither of the two, damaged, or the base is not the one that the adapters were trained on.
    """
    path = Path(path)
    if path.is_dir():
        config = config_of(path)
        if not isinstance(config, TextConfig):
            raise UserError(f"{path} holds no run of a language model: {type(config).__name__}")
        _, variables = trained_variables(config, make_workload(config), path)
        return make_model(config).clone(dtype=None), jax.device_get(variables), config.init_from or str(path)
    leaves, about = sources.read_with_metadata(path)
    if "adapter" not in about:
        raise UserError(f"{path} is no adapter file of a run: a finished run leaves one, adapter.safetensors")
    told: dict[str, Any] = {key: json.loads(about[key]) for key in ("adapter", "tasks", "init_from", "base")}
    source = base or told["init_from"]
    spec, stored = read_llama(folder_of(source))
    variables = traverse_util.unflatten_dict({**dict(stored), **leaves}, sep="/")
    if fingerprint({"params": variables["params"]}) != told["base"]:
        raise UserError(f"{path} was trained on another base than {source}: their fingerprints differ")
    adapter = schema.decode(told["adapter"], Adapter, "adapter")
    model = Llama(spec, adapter.table(tuple(told["tasks"])))
    wanted = tables.flatten(jax.eval_shape(lambda: _lora(model)))
    if set(wanted) != set(leaves) or any(leaves[name].shape != wanted[name].shape for name in wanted):
        raise UserError(f"{path} is damaged: its leaves are not those of the adapter it describes")
    return model, variables, source


def _lora(model: Llama) -> dict:
    return {"lora": init(model, 0)["lora"]}


def merge_task(source: str | Path, out: Path, task: str | None, base: str | None = None) -> str:
    """Writes a plain model with one task's adapters folded into its kernels, as a Hugging Face folder.

    Raises:
      UserError: see `read_model`; or the method does not merge.
    """
    model, variables, _ = read_model(source, base)
    tokens = jax.numpy.zeros((1, 2), jax.numpy.int32)
    layers = sites(model, tokens, task_id=jax.numpy.zeros(1, jax.numpy.int32))
    try:
        plain = jax.device_get(merge(variables, layers, task))
    except CannotMerge as reason:
        raise UserError(f"{source}: {reason}") from None
    save_llama(out, model.spec, plain["params"])
    return f"{len(layers)} projections of {model.spec.layers} layers with {task or 'the adapters'} folded in"

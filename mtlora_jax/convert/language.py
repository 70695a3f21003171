"""Language models with adapters: Hugging Face folders, and the adapter files of the MTL-LoRA reference."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import Dense, MoELoRA, MTLLoRA, Spec, sites
from mtlora_jax.convert import adapter_rows
from mtlora_jax.convert.effect import check_acts
from mtlora_jax.engine import tables
from mtlora_jax.errors import UserError
from mtlora_jax.language.sites import adapter_at
from mtlora_jax.text.llama import SITES, Llama, init
from mtlora_jax.text.llama_weights import open_llama
from mtlora_jax.text.tasks import COMMONSENSE
from mtlora_jax.weights import mapping
from mtlora_jax.weights.hub import locate_folder, read

Model = tuple[Llama, dict[str, Any]]


def llama(folder: str | Path) -> Model:
    """A plain model from a Hugging Face folder, an embedded one, or a hub name.

    Returns:
      `(model, variables)`, such that `model.apply(variables, tokens, attention_mask=...)` gives logits `[B, L, V]`.

    Raises:
      UserError: the folder lacks a file or a tensor, or holds a model of another kind.
    """
    spec, leaves = open_llama(locate_folder(folder))
    return Llama(spec), traverse_util.unflatten_dict(dict(leaves), sep="/")


def mtl_lora_reference(
    folder: str | Path, adapter_state: Mapping[str, Any] | str | Path, hyper: Mapping[str, Any]
) -> Model:
    """A model with the adapters of the MTL-LoRA reference, as one function of the two.

    Args:
      folder: the base, as `llama` takes it.
      adapter_state: `{"model.layers.0.self_attn.q_proj.lora_A": array, ...}`, or a file of them, `.pt` or
        `.safetensors`; nothing in a file is executed.
      hyper: what the reference's files do not tell. `r`, `lora_alpha`, `n_tasks`, `n_up`, `tau`, `diagonal`,
        `target_modules` (substrings of module paths); for MoELoRA `expert_num` and `task_embedding_dim` in place of
        `n_up`, `tau` and `diagonal`. `tasks` names the tasks.

    Returns:
      `(model, variables)`, such that `model.apply(variables, tokens, attention_mask=..., task_id=...)` gives logits
      `[B, L, V]` of left- or right-padded tokens.

    Raises:
      UserError: a hyper-parameter is missing or out of range; an adapter tensor is missing, of another shape, or left
        over; the message names it.
    """
    if isinstance(adapter_state, str | Path):
        adapter_state, _ = read(adapter_state)
    state = {name: np.asarray(value) for name, value in adapter_state.items()}
    plain, variables = llama(folder)
    spec = reference_spec(hyper)
    model = plain.clone(adapters=tuple((f"^{site}$", spec) for site in targeted(hyper)))
    where = f"the adapter file, read for target_modules {', '.join(site.split('/')[1] for site in adapters_of(model))},"
    leaves = mapping.load(state, abstract_adapters(model), reference_rows(model), where=where)
    variables |= traverse_util.unflatten_dict(leaves, sep="/")
    check_acts(variables, adapted_layers(model), "the adapter file")
    return model, variables


def to_mtl_lora_reference(model: Llama, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The adapters as the reference saves them, bit for bit what `mtl_lora_reference` read.

    Raises:
      UserError: the method is none of the reference's.
    """
    leaves = traverse_util.flatten_dict({"lora": jax.device_get(variables["lora"])}, sep="/")
    return mapping.save(leaves, reference_rows(model))


def reference_rows(model: Llama) -> tuple[mapping.Row, ...]:
    """The reference's key table of a model's adapters. Raises UserError for a method that the reference lacks."""
    adapters = adapters_of(model)
    place = adapter_rows.in_llama(model.spec.layers)
    return adapter_rows.rows(adapters, adapter_rows.reference_table, place)


def abstract_adapters(model: Llama) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape}` of a model's adapter leaves."""
    return tables.flatten({"lora": jax.eval_shape(lambda: init(model, 0))["lora"]})


def adapted_layers(model: Llama) -> dict[tuple[str, ...], Dense]:
    """A model's projections that carry an adapter, by path."""
    return sites(model, np.zeros((1, 2), np.int32), task_id=np.zeros(1, np.int32))


def adapters_of(model: Llama) -> dict[str, Spec]:
    """The adapter of every projection that has one."""
    return {site: spec for site in SITES if (spec := adapter_at(model.adapters, site)) is not None}


def reference_spec(hyper: Mapping[str, Any]) -> Spec:
    """The adapter that the reference's hyper-parameters describe."""

    def need(name: str) -> Any:
        if name not in hyper:
            raise UserError(f"hyper lacks {name}: the reference's adapter files do not tell it")
        return hyper[name]

    count = need("n_tasks")
    named = COMMONSENSE if count == len(COMMONSENSE) else map("task{}".format, range(count))
    tasks = tuple(hyper.get("tasks") or named)
    rank = need("r")
    try:
        scale = need("lora_alpha") / rank
        if "expert_num" in hyper:
            return MoELoRA(tasks, rank, hyper["expert_num"], need("task_embedding_dim"), scale)
        return MTLLoRA(tasks, rank, scale, need("n_up"), need("tau"), need("diagonal"))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"hyper: {error}") from None


def targeted(hyper: Mapping[str, Any]) -> tuple[str, ...]:
    """The projections that any of the target strings is part of the path of, as the reference chooses them."""
    targets = hyper.get("target_modules") or ()
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    paths = {site: f"model.layers.0.{site.replace('/', '.')}" for site in SITES}
    if useless := next((target for target in targets if not any(target in path for path in paths.values())), None):
        raise UserError(f"hyper: target_modules names {useless!r}, which no projection is called")
    found = tuple(site for site, path in paths.items() if any(target in path for target in targets))
    if not found:
        raise UserError("hyper: target_modules is empty")
    return found

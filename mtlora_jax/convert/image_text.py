"""BART with pictures and adapters: Hugging Face folders, and the checkpoints of the MTL-LoRA reference's VL-BART."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import Dense, Spec, sites
from mtlora_jax.convert import adapter_rows
from mtlora_jax.convert.effect import check_acts
from mtlora_jax.convert.language import reference_spec
from mtlora_jax.engine import tables
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import Bart, BartSpec, init
from mtlora_jax.image_text.bart_weights import COPIES, leaves_of, open_bart, rows, spec_of, visual_spec
from mtlora_jax.image_text.layers import SITES
from mtlora_jax.language.sites import adapter_at
from mtlora_jax.weights import mapping
from mtlora_jax.weights.hub import locate_folder

Model = tuple[Bart, dict[str, Any]]
WORDS = "model.shared.weight"
TASKS = ("vqa", "gqa", "nlvr", "caption")
"""The reference's, in the order of task ids."""


def bart(folder: str | Path) -> Model:
    """A BART for text from a Hugging Face folder, an embedded one, or a hub name.

    Returns:
      `(model, variables)`, such that `model.apply(variables, input_ids, targets=...)` gives logits `[B, L, V]`.

    Raises:
      UserError: the folder lacks a file or a tensor, or holds a model of another kind.
    """
    spec, leaves = open_bart(locate_folder(folder))
    return Bart(spec), traverse_util.unflatten_dict(dict(leaves), sep="/")


def vl_bart_reference(
    config: Mapping[str, Any], state: Mapping[str, Any], hyper: Mapping[str, Any] | None = None
) -> Model:
    """A checkpoint of the reference's VL-BART.

    Args:
      config: BART's `config.json`, with the visual options beside it: `feat_dim`, `n_boxes`, `n_images`, `downsample`,
        `use_vis_layer_norm`, `individual_vis_layer_norm`, `use_vis_order_embedding`.
      state: `{"model.encoder.layers.0.self_attn.q_proj.weight": array, ...}`, with or without adapters; the table of
        words says how many there are.
      hyper: of adapters: `r`, `lora_alpha`, `n_tasks`, `n_up`, `tau`, `diagonal`. `tasks` names the tasks.

    Returns:
      `(model, variables)`, such that `model.apply(variables, input_ids, features, boxes, targets, task_id)` gives
      logits `[B, L, V]`.

    Raises:
      UserError: a key of the config or a hyper-parameter is missing or not supported; a tensor is missing, of another
        shape, or left over; the message names it.
    """
    state = {name: np.asarray(value) for name, value in state.items()}
    words = state.get(WORDS, state.get(WORDS.removeprefix("model.")))
    if words is None:
        raise UserError(f"the checkpoint lacks {WORDS}")
    try:
        spec = replace(spec_of({**config, "vocab_size": len(words)}), visual=visual_spec(config))
    except KeyError as error:
        raise UserError(f"config: {error.args[0]} is missing") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"config: {error}") from None
    own = {name: value for name, value in state.items() if ".lora_" in name}
    base = leaves_of({name: state[name] for name in state if name not in own}, spec, "the checkpoint")
    model, variables = Bart(spec), traverse_util.unflatten_dict(dict(base), sep="/")
    if not own and hyper is None:
        return model, variables
    if hyper is None:
        raise UserError(f"the checkpoint holds adapters, such as {next(iter(own))}: their settings are needed as hyper")
    adapter = reference_spec({"tasks": TASKS, **hyper} if hyper.get("n_tasks") == len(TASKS) else hyper)
    place = in_bart(spec)
    found = [site for site in SITES if any(name.startswith(f"{place(site)[1][0]}.lora_") for name in own)]
    model = model.clone(adapters=tuple((f"^{site}$", adapter) for site in found))
    leaves = mapping.load(own, abstract_adapters(model), reference_rows(model), where="the checkpoint's adapters")
    variables |= traverse_util.unflatten_dict(leaves, sep="/")
    check_acts(variables, adapted_layers(model), "the checkpoint")
    return model, variables


def to_vl_bart_reference(model: Bart, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The whole state as the reference saves it, copies of the word embedding included."""
    variables = jax.device_get(variables)
    leaves = tables.flatten({"params": variables["params"]})
    tensors = mapping.save(leaves, rows(model.spec))
    if model.adapters:
        tensors |= mapping.save(tables.flatten({"lora": variables["lora"]}), reference_rows(model))
    for name in COPIES:
        if model.spec.visual is not None or "visual" not in name:
            tensors[name if name.startswith("lm_head") else f"model.{name}"] = tensors[WORDS]
    return tensors


def in_bart(spec: BartSpec, prefix: str = "") -> Callable[[str], tuple[str, list[str]]]:
    """Where a projection of a BART is; see `adapter_rows.rows`."""

    def place(site: str) -> tuple[str, list[str]]:
        side, _, rest = site.partition("/")
        depth = getattr(spec, f"{side}_layers")
        return (
            f"{side}/layers/{rest}",
            [f"{prefix}model.{side}.layers.{i}.{rest.replace('/', '.')}" for i in range(depth)],
        )

    return place


def adapters_of(model: Bart) -> dict[str, Spec]:
    """The adapter of every projection that has one."""
    return {site: spec for site in SITES if (spec := adapter_at(model.adapters, site)) is not None}


def reference_rows(model: Bart) -> tuple[mapping.Row, ...]:
    """The reference's key table of a model's adapters. Raises UserError for a method that the reference lacks."""
    return adapter_rows.rows(adapters_of(model), adapter_rows.reference_table, in_bart(model.spec))


def abstract_adapters(model: Bart) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape}` of a model's adapter leaves."""
    return tables.flatten({"lora": jax.eval_shape(lambda: init(model, 0))["lora"]})


def adapted_layers(model: Bart) -> dict[tuple[str, ...], Dense]:
    """A model's projections that carry an adapter, by path."""
    ids, task_id = np.zeros((1, 2), np.int32), np.zeros(1, np.int32)
    return sites(model.clone(spec=replace(model.spec, visual=None)), ids, targets=ids, task_id=task_id)

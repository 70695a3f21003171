"""Language models with adapters: Hugging Face folders, and the adapter files of the MTL-LoRA reference."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import MoELoRA, MTLLoRA, Spec, method_of
from mtlora_jax.convert.adapter_states import STATES
from mtlora_jax.engine import tables
from mtlora_jax.errors import UserError
from mtlora_jax.text.llama import SITES, Llama, LlamaSpec
from mtlora_jax.text.llama_weights import folder_of, read_llama
from mtlora_jax.text.tasks import COMMONSENSE
from mtlora_jax.weights import source as sources

Model = tuple[Llama, dict[str, Any]]


def llama(folder: str | Path) -> Model:
    """A plain model from a Hugging Face folder, an embedded one, or a hub name.

    Returns:
      `(model, variables)`, such that `model.apply(variables, tokens, attention_mask=...)` gives logits `[B, L, V]`.

    Raises:
      UserError: the folder lacks a file or a tensor, or holds a model of another kind.
    """
    spec, leaves = read_llama(folder_of(str(folder)))
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
        adapter_state = sources.read(adapter_state)
    state = {name: np.asarray(value) for name, value in adapter_state.items()}
    plain, variables = llama(folder)
    spec = reference_spec(hyper)
    sites = targeted(hyper)
    model = plain.clone(adapters=tuple((f"^{site}$", spec) for site in sites))
    variables["lora"] = load_state(model.spec, spec, sites, state)
    return model, variables


def to_mtl_lora_reference(model: Llama, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The adapters as the reference saves them, bit for bit what `mtl_lora_reference` read.

    Raises:
      UserError: the method is none of the reference's.
    """
    found = {}
    leaves = jax.device_get(variables["lora"])["layers"]
    for site in SITES:
        if (spec := adapter_at(model, site)) is None:
            continue
        if spec.method not in STATES:
            raise UserError(f"the reference has no {spec.method}: it saves {', '.join(STATES)}")
        block, name = site.split("/")
        for i in range(model.spec.layers):
            layer = {leaf: value[i] for leaf, value in leaves[block][name].items()}
            state = STATES[spec.method].save(spec, layer)
            found |= {f"model.layers.{i}.{block}.{name}.{key}": np.ascontiguousarray(v) for key, v in state.items()}
    return found


def adapter_at(model: Llama, site: str) -> Spec | None:
    """The adapter that a model's table gives a projection."""
    return next((spec for regex, spec in model.adapters if re.search(regex, site)), None)


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


def load_state(shape: LlamaSpec, spec: Spec, sites: tuple[str, ...], state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The `lora` collection of a reference's tensors, every one of them used and every leaf filled."""
    names, method, left = STATES[spec.method], method_of(spec), dict(state)
    loaded: dict[str, list[np.ndarray]] = {}
    for site in sites:
        block, projection = site.split("/")
        declared = method.leaves(spec, *widths(shape, projection))
        wanted = names.save(spec, {name: np.zeros(leaf.shape) for name, leaf in declared.items()})
        for i in range(shape.layers):
            prefix = f"model.layers.{i}.{block}.{projection}."
            for name, array in wanted.items():
                if prefix + name not in left:
                    raise UserError(f"the adapter file lacks {prefix}{name}")
                if (found := left[prefix + name].shape) != array.shape:
                    raise UserError(f"{prefix}{name} has shape {found}, rank, tasks and base make it {array.shape}")
            layer = names.load(spec, {name: left.pop(prefix + name) for name in wanted})
            for name, leaf in layer.items():
                loaded.setdefault(f"layers/{site}/{name}", []).append(leaf)
    if left:
        extra = sorted(left)
        more = f" and {len(extra) - tables.MAX_LISTED} more" if len(extra) > tables.MAX_LISTED else ""
        raise UserError(
            f"the adapter file also holds {', '.join(extra[: tables.MAX_LISTED])}{more}: target_modules leaves them out"
        )
    return traverse_util.unflatten_dict({path: np.stack(layers) for path, layers in loaded.items()}, sep="/")


def widths(shape: LlamaSpec, projection: str) -> tuple[int, int]:
    """`(in, out)` of a projection."""
    heads, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    return {
        "q_proj": (shape.hidden, heads),
        "k_proj": (shape.hidden, kv),
        "v_proj": (shape.hidden, kv),
        "o_proj": (heads, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }[projection]

"""Adapters as folders of the `peft` library: `adapter_config.json` and `adapter_model.safetensors`.

One task of a method becomes a plain LoRA where that is exact, or a DoRA; peft, and servers that read its folders, then
compute the same function.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, DoRA, LoRA, Spec, dora, export
from mtlora_jax.convert import adapter_rows
from mtlora_jax.convert.effect import check_acts
from mtlora_jax.convert.language import Model, abstract_adapters, adapted_layers, adapters_of, llama
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json, write_text
from mtlora_jax.text.llama import SITES, Llama
from mtlora_jax.weights import mapping, safetensors
from mtlora_jax.weights.hub import read

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
METHOD_TEXT = "One task of an {method} adapter, exported by mtlora_jax as a plain {kind} of rank {rank}."


def export_peft(folder: str | Path, model: Llama, variables: Mapping[str, Any], task: str | None, base: str) -> None:
    """Writes one task's adapters as a folder that peft loads; the function is exactly the same.

    Args:
      task: which; None for methods that know no tasks.
      base: what the adapters belong to: a folder or a hub name, for peft to find it by.

    Raises:
      UserError: the method is not a plain LoRA for one task, or has no such task; the message gives the reason.
    """
    adapters = adapters_of(model)
    if not adapters:
        raise UserError("the model has no adapters to export")
    layers, kinds = adapted_layers(model), {type(spec) for spec in adapters.values()}
    leaves: dict[str, np.ndarray] = {}
    if kinds == {DoRA}:
        pairs = _dora_pairs(variables, layers, leaves)
    else:
        try:
            pairs = export(variables, layers, task)
        except CannotMerge as reason:
            raise UserError(f"no plain LoRA is this adapter: {reason}") from None
    ranks = {path: A.shape[-1] for path, (A, _) in pairs.items()}
    for path, (A, B) in pairs.items():
        where = "/".join(("lora", *path))
        leaves |= {f"{where}/A": np.asarray(A, np.float32), f"{where}/B": np.asarray(B, np.float32)}
    tensors = mapping.save(leaves, peft_rows(adapters, model.spec.layers))
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        # The scale is within B, so that peft's own, alpha / r, is 1.
        "lora_alpha": rank,
        "rank_pattern": {".".join(path[1:]): r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {".".join(path[1:]): r for path, r in ranks.items() if r != rank},
        "target_modules": sorted({path[-1] for path in pairs}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": kinds == {DoRA},
        "inference_mode": True,
    }
    method = next(iter(adapters.values())).method
    text = METHOD_TEXT.format(method=method, kind="DoRA" if config["use_dora"] else "LoRA", rank=rank)
    about = f"Task: {task}.\n\n" if task else ""
    card = f"---\nbase_model: {base}\nlibrary_name: peft\n---\n\n{text}\n\n{about}Base model: {base}.\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)
    write_text(folder / CARD, card)


def peft_rows(adapters: Mapping[str, Spec], layers: int) -> tuple[mapping.Row, ...]:
    return adapter_rows.rows(adapters, lambda spec: adapter_rows.PEFT, layers, adapter_rows.PEFT_PREFIX)


def _dora_pairs(variables, layers, magnitudes) -> dict:
    """`(A, s B)` of every layer, and its absolute magnitudes into `magnitudes`."""
    leaves, params = flatten(variables["lora"]), flatten(variables["params"])
    pairs = {}
    for path, layer in layers.items():
        where, spec = "/".join(path), layer.adapter
        if not spec.rank:
            raise UserError("DoRA of magnitudes alone is nothing that peft has")
        own = {name: leaves[f"{where}/{name}"] for name in ("A", "B", "magnitude")}
        m = jax.vmap(dora.magnitude)({"magnitude": own["magnitude"]}, params[f"{where}/kernel"])
        magnitudes[f"lora/{where}/magnitude"] = np.asarray(m)
        pairs[path] = own["A"], spec.scale * own["B"]
    return pairs


def import_peft(folder: str | Path, base: str | Path | None = None) -> Model:
    """A model with the LoRA or DoRA of a peft folder.

    Args:
      base: the base model; the one that the folder names by default.

    Returns:
      `(model, variables)`.

    Raises:
      UserError: the folder is none of peft's, its adapter is of another kind, or does not fit the base.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is not a folder of peft's: there is no {CONFIG}") from None
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} is not JSON: {error}") from None
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{folder}: adapters of peft_type {kind} are not supported, only LORA is")
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"):
        if config.get(key):
            raise UserError(f"{folder}: {key} is not supported, every projection has one rank and one alpha")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    spec = DoRA(rank, scale) if config.get("use_dora") else LoRA(rank, scale)
    tensors, _ = read(folder / WEIGHTS)
    plain, variables = llama(base or config["base_model_name_or_path"])
    adapters = {
        site: spec for site in SITES if any(f".{site.replace('/', '.')}.lora_A.weight" in name for name in tensors)
    }
    if not adapters:
        raise UserError(f"{folder / WEIGHTS} holds {next(iter(tensors), 'nothing')}, which this model has no place for")
    model = plain.clone(adapters=tuple((f"^{re.escape(site)}$", spec) for site in adapters))
    rows = peft_rows(adapters, plain.spec.layers)
    leaves = mapping.load(tensors, abstract_adapters(model), rows, where=str(folder / WEIGHTS))
    params = flatten(variables["params"])
    for site in adapters if isinstance(spec, DoRA) else ():
        leaves[f"lora/layers/{site}/magnitude"] -= adapter_rows.norms(params[f"layers/{site}/kernel"])
    variables |= traverse_util.unflatten_dict(leaves, sep="/")
    check_acts(variables, adapted_layers(model), str(folder))
    return model, variables

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
from safetensors.numpy import save_file

from mtlora_jax.adapters import CannotMerge, DoRA, LoRA, export, sites
from mtlora_jax.adapters.methods import dora
from mtlora_jax.convert.language import Model, adapter_at, llama
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.text.llama import SITES, Llama
from mtlora_jax.weights import source as sources

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PREFIX = "base_model.model.model.layers"
METHOD_TEXT = "One task of an {method} adapter, exported by mtlora_jax as a plain {kind} of rank {rank}."


def export_peft(folder: str | Path, model: Llama, variables: Mapping[str, Any], task: str | None, base: str) -> None:
    """Writes one task's adapters as a folder that peft loads; the function is exactly the same.

    Args:
      task: which; None for methods that know no tasks.
      base: what the adapters belong to: a folder or a hub name, for peft to find it by.

    Raises:
      UserError: the method is no plain LoRA for one task, or has no such task; the message gives the reason.
    """
    specs = {site: spec for site in SITES if (spec := adapter_at(model, site)) is not None}
    if not specs:
        raise UserError("the model has no adapters to export")
    kinds = {type(spec) for spec in specs.values()}
    tokens = np.zeros((1, 2), np.int32)
    layers = sites(model, tokens, task_id=np.zeros(1, np.int32))
    tensors: dict[str, np.ndarray] = {}
    if kinds == {DoRA}:
        pairs = _dora_pairs(variables, layers, tensors)
    else:
        try:
            pairs = export(variables, layers, task)
        except CannotMerge as reason:
            raise UserError(f"no plain LoRA is this adapter: {reason}") from None
    ranks = {path: A.shape[-1] for path, (A, _) in pairs.items()}
    for path, (A, B) in pairs.items():
        for i in range(model.spec.layers):
            name = f"{PREFIX}.{i}.{'.'.join(path[1:])}"
            tensors[f"{name}.lora_A.weight"] = np.asarray(A[i], np.float32).T
            tensors[f"{name}.lora_B.weight"] = np.asarray(B[i], np.float32).T
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
    method = next(iter(specs.values())).method
    text = METHOD_TEXT.format(method=method, kind="DoRA" if config["use_dora"] else "LoRA", rank=rank)
    about = f"Task: {task}.\n\n" if task else ""
    card = f"---\nbase_model: {base}\nlibrary_name: peft\n---\n\n{text}\n\n{about}Base model: {base}.\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / CARD).write_text(card)


def _dora_pairs(variables, layers, tensors) -> dict:
    """`(A, s B)` of every layer, and its absolute magnitudes into `tensors`."""
    leaves, params = flatten(variables["lora"]), flatten(variables["params"])
    pairs = {}
    for path, layer in layers.items():
        where, spec = "/".join(path), layer.adapter
        if not spec.rank:
            raise UserError("DoRA of magnitudes alone is nothing that peft has")
        own = {name: leaves[f"{where}/{name}"] for name in ("A", "B", "magnitude")}
        m = jax.vmap(dora.magnitude)({"magnitude": own["magnitude"]}, params[f"{where}/kernel"])
        for i, row in enumerate(np.asarray(m)):
            tensors[f"{PREFIX}.{i}.{'.'.join(path[1:])}.lora_magnitude_vector"] = row
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
        raise UserError(f"{folder} is no folder of peft's: there is no {CONFIG}") from None
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} is no JSON: {error}") from None
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{folder}: adapters of peft_type {kind} are not supported, only LORA is")
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"):
        if config.get(key):
            raise UserError(f"{folder}: {key} is not supported, every projection has one rank and one alpha")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    spec = DoRA(rank, scale) if config.get("use_dora") else LoRA(rank, scale)
    left = sources.read(folder / WEIGHTS)
    plain, variables = llama(base or config["base_model_name_or_path"])
    params = flatten(variables["params"])
    found: dict[str, Any] = {}
    adapted = []
    for site in SITES:
        names = {f".{site.replace('/', '.')}.lora_A.weight" in key for key in left}
        if True not in names:
            continue
        adapted.append(site)
        kernel = params[f"layers/{site}/kernel"]
        own = {"A": [], "B": [], "magnitude": []}
        for i in range(plain.spec.layers):
            name = f"{PREFIX}.{i}.{site.replace('/', '.')}"
            own["A"].append(_take(left, f"{name}.lora_A.weight", (rank, kernel.shape[1]), folder).T)
            own["B"].append(_take(left, f"{name}.lora_B.weight", (kernel.shape[2], rank), folder).T)
            if isinstance(spec, DoRA):
                m = _take(left, f"{name}.lora_magnitude_vector", (kernel.shape[2],), folder)
                own["magnitude"].append(m - np.linalg.norm(np.asarray(kernel[i], np.float32), axis=0))
        block, projection = site.split("/")
        found.setdefault(block, {})[projection] = {name: np.stack(rows) for name, rows in own.items() if rows}
    if left or not adapted:
        raise UserError(f"{folder / WEIGHTS} holds {next(iter(left), 'nothing')}, which this model has no place for")
    rows = tuple((f"^{re.escape(site)}$", spec) for site in adapted)
    return plain.clone(adapters=rows), {**variables, "lora": {"layers": found}}


def _take(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], folder: Path) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"{folder / WEIGHTS} lacks {name}")
    tensor = np.asarray(tensors.pop(name), np.float32)
    if tensor.shape != shape:
        raise UserError(f"{folder / WEIGHTS}: {name} has shape {tensor.shape}, its config and base make it {shape}")
    return tensor

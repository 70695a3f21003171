"""Adapters as folders of the `peft` library: `adapter_config.json` and `adapter_model.safetensors`.

One task of a method becomes a plain LoRA where that is exact, or a DoRA; peft, and servers that read its folders, then
compute the same function.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, Dense, DoRA, LoRA, Spec, dora, export
from mtlora_jax.config import is_run_config
from mtlora_jax.convert import adapter_rows
from mtlora_jax.convert.effect import check_acts
from mtlora_jax.convert.language import Model, abstract_adapters, adapted_layers, adapters_of, llama
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json, write_json, write_text
from mtlora_jax.text.llama import SITES, Llama
from mtlora_jax.weights import mapping, safetensors
from mtlora_jax.weights.hub import is_hub_name, read, shipped

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
METHOD_TEXT = "One task of an {method} adapter, exported by mtlora_jax as a plain {kind} of rank {rank}."


def export_peft(folder: str | Path, model: Llama, variables: Mapping[str, Any], task: str | None, base: str) -> None:
    """Writes one task's adapters of a decoder as a folder that peft loads; the function is exactly the same.

    Args:
      task: which; None for methods that know no tasks.
      base: what the adapters belong to: a folder or a hub name, for peft to find it by.

    Raises:
      UserError: peft could not open the base; the method is not a plain LoRA for one task, or has no such task; the
        message gives the reason.
    """
    adapters, layers = adapters_of(model), adapted_layers(model)
    modules = sorted({path[-1] for path in layers})
    rows = peft_rows(adapters, model.spec.layers)
    write_peft(folder, variables, layers, rows, modules, "CAUSAL_LM", task, lambda: openable(base))


def write_peft(
    folder: str | Path,
    variables: Mapping[str, Any],
    layers: Mapping[tuple[str, ...], Dense],
    rows: Sequence[mapping.Row],
    modules: Sequence[str],
    task_type: str,
    task: str | None,
    base_of_adapter: Callable[[], str],
) -> None:
    """`export_peft` of any model.

    Args:
      layers: the adapted layers by path.
      rows: the key table of their leaves.
      modules: the names, or ends of names, of the modules they are in peft's model.
      task_type: peft's word for the kind of model.
      base_of_adapter: what peft finds the base by; asked for once there is an adapter to write.
    """
    adapters = [layer.adapter for layer in layers.values()]
    if not adapters:
        raise UserError("the model has no adapters to export")
    is_dora = {type(spec) for spec in adapters} == {DoRA}
    leaves: dict[str, np.ndarray] = {}
    if is_dora:
        pairs = _dora_pairs(variables, layers, leaves)
    else:
        try:
            pairs = export(variables, layers, task)
        except CannotMerge as reason:
            raise UserError(f"no plain LoRA is this adapter: {reason}") from None
    base = base_of_adapter()
    ranks = {path: A.shape[-1] for path, (A, _) in pairs.items()}
    for path, (A, B) in pairs.items():
        where = "/".join(("lora", *path))
        leaves |= {f"{where}/A": np.asarray(A, np.float32), f"{where}/B": np.asarray(B, np.float32)}
    tensors = mapping.save(leaves, rows)
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "r": rank,
        # The scale is within B, so that peft's own, alpha / r, is 1.
        "lora_alpha": rank,
        "rank_pattern": {".".join(path[1:]): r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {".".join(path[1:]): r for path, r in ranks.items() if r != rank},
        "target_modules": list(modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": is_dora,
        "inference_mode": True,
    }
    text = METHOD_TEXT.format(method=adapters[0].method, kind="DoRA" if is_dora else "LoRA", rank=rank)
    about = f"Task: {task}.\n\n" if task else ""
    card = f"---\nbase_model: {base}\nlibrary_name: peft\n---\n\n{text}\n\n{about}Base model: {base}.\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)
    write_text(folder / CARD, card)


def base_of(folder: str | Path) -> str:
    """The base that a folder of peft names. Raises UserError where it names none."""
    path = Path(folder) / CONFIG
    if not path.exists():
        raise UserError(f"{folder} is not a folder of peft's: there is no {CONFIG}")
    config = read_json(path)
    if not isinstance(config, Mapping) or not isinstance(base := config.get("base_model_name_or_path"), str):
        raise UserError(f"{path} names no base model: name it with --base")
    return base


def openable(base: str) -> str:
    """A base's name as peft finds it from anywhere. Raises UserError where it would find none."""
    folder = shipped(base) if shipped(base).is_dir() else Path(base)
    if (folder / "config.json").exists() and not is_run_config(read_json(folder / "config.json")):
        return str(folder.resolve())
    if folder.is_dir() or not is_hub_name(base):
        raise UserError(
            f"peft can open no base model at {base}: merge writes a whole one, or name a folder with --base"
        )
    return base


def peft_rows(adapters: Mapping[str, Spec], layers: int) -> tuple[mapping.Row, ...]:
    return adapter_rows.rows(
        adapters, lambda spec: adapter_rows.PEFT, adapter_rows.in_llama(layers, adapter_rows.PEFT_PREFIX)
    )


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


READ = {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "base_model_name_or_path"}
"""Keys whose values are read."""
OF_TRAINING = {
    *("task_type", "inference_mode", "target_modules", "lora_dropout", "auto_mapping", "peft_version", "revision"),
    *(
        "exclude_modules",
        "megatron_config",
        "megatron_core",
        "runtime_config",
        "ensure_weight_tying",
        "qalora_group_size",
    ),
    *("eva_config", "corda_config", "loftq_config", "arrow_config", "lora_ga_config", "layers_pattern"),
}
"""Keys that change nothing of the function that the weights compute; what other methods' settings need to take
effect is said by keys that are refused."""
NEUTRAL: Mapping[str, tuple] = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}
"""Values of further keys that change nothing either; of all others only nothing at all (null, false, empty) does."""


def check_known(config: Mapping[str, Any], where: Path) -> None:
    """Raises UserError for a setting under which the weights would compute another function than is read."""
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{where}: adapters of peft_type {kind} are not supported, only LORA is")
    for key in ("r", "lora_alpha"):
        if type(config.get(key)) not in (int, float) or config[key] <= 0:
            raise UserError(f"{where}: {key} is {config.get(key)!r}, a number above 0 is needed")
    for key, value in config.items():
        if key in READ | OF_TRAINING or value in NEUTRAL.get(key, ()) or value in (None, False, "", 0, {}, []):
            continue
        changes = (
            "it trains the residual of changed base weights" if key == "init_lora_weights" else "it is not supported"
        )
        raise UserError(f"{where}: {key} is {value!r}: {changes}; a plain LoRA or DoRA of one rank and alpha is read")


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
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not a folder of peft's: there is no {CONFIG}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, Mapping):
        raise UserError(f"{folder / CONFIG} is not the config of an adapter")
    check_known(config, folder / CONFIG)
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    spec = DoRA(rank, scale) if config.get("use_dora") else LoRA(rank, scale)
    tensors, _ = read(folder / WEIGHTS)
    plain, variables = llama(base or base_of(folder))
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

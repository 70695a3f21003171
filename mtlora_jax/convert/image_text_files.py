"""Runs of image and text, out of the door and in: plain BART folders, folders of peft, the reference's checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtlora_jax import schema
from mtlora_jax.adapters import CannotMerge, merge
from mtlora_jax.cli import open_trained
from mtlora_jax.convert import adapter_rows
from mtlora_jax.convert.effect import check_acts, check_merged
from mtlora_jax.convert.image_text import (
    adapted_layers,
    adapters_of,
    in_bart,
    to_vl_bart_reference,
    vl_bart_reference,
)
from mtlora_jax.convert.peft import write_peft
from mtlora_jax.engine import tables
from mtlora_jax.engine.run import Step
from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.image_text.bart import Bart, BartSpec
from mtlora_jax.image_text.bart_weights import CONFIG, save_bart
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.source import VISUAL, tokenizer_of
from mtlora_jax.image_text.workload import make_model
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.weights import safetensors
from mtlora_jax.weights.hub import locate_folder

BASE = "base"
"""Within a folder of peft, the model that its adapter belongs to."""


def read_run(
    source: str | Path, step: Step = "last", arguments: Sequence[str] = ()
) -> tuple[ImageTextConfig, Bart, dict[str, Any]]:
    """A run's config, its model, and its variables on the host.

    Raises:
      UserError: it holds no run of image and text, or its base has moved.
    """
    run = open_trained(source, arguments)
    if not isinstance(run.config, ImageTextConfig):
        raise UserError(f"{source} holds no run of image and text: {type(run.config).__name__}")
    model, variables = make_model(run.config).clone(dtype=None), jax.device_get(run.variables(step))
    if model.adapters:
        check_acts(variables, adapted_layers(model), str(source))
    return run.config, model, variables


def merge_task(
    source: str, out: Path, task: str | None, step: Step, dtype: str | None, arguments: Sequence[str]
) -> str:
    """Writes a plain BART folder with one task's adapters folded in, and what turns pictures into tokens beside it."""
    config, model, variables = read_run(source, step, arguments)
    layers = adapted_layers(model) if model.adapters else {}
    if dtype is not None:
        # Rounded once, after the updates are added.
        variables["params"] = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float32), variables["params"])
    if not layers:
        plain = variables
    else:
        try:
            plain = jax.device_get(merge(variables, layers, task))
        except CannotMerge as reason:
            raise UserError(f"{source}: {reason}") from None
        check_merged(variables["params"], plain["params"], variables, layers, source)
    params = plain["params"]
    if dtype is not None:
        params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.dtype(dtype)), params)
    _write_model(out, config, model.spec, params)
    what = f"{len(layers)} kinds of projections with {task or 'the adapters'} folded in"
    return f"{what}; {CONFIG}, weights, tokenizer and {VISUAL}"


def to_peft(source: str, out: Path, task: str | None, step: Step, arguments: Sequence[str]) -> str:
    """Writes one task's adapters as a folder that peft loads for text, and the model they belong to within it: biases
    and norms were trained too, and no published base has them."""
    config, model, variables = read_run(source, step, arguments)
    base = (out / BASE).resolve()
    place = in_bart(model.spec, adapter_rows.PEFT_PREFIX)
    adapters = adapters_of(model)
    rows = adapter_rows.rows(adapters, lambda spec: adapter_rows.PEFT, place)
    modules = [name for site in adapters for name in in_bart(model.spec)(site)[1]]
    layers = adapted_layers(model) if model.adapters else {}
    write_peft(out, variables, layers, rows, modules, "SEQ_2_SEQ_LM", task, lambda: str(base))
    _write_model(base, config, model.spec, variables["params"])
    return f"{task or 'the adapters'} for the model in {base}, exactly, for text without pictures"


def _write_model(folder: Path, config: ImageTextConfig, spec: BartSpec, params: Mapping[str, Any]) -> None:
    """A plain BART, its tokenizer's files, and the visual embedding."""
    save_bart(folder, spec, params)
    tokenizer_of(config).save(folder)
    leaves = tables.flatten({"params": {"visual_embedding": params["visual_embedding"]}})
    about = {"visual": schema.encode(spec.visual), "tasks": list(config.tasks)}
    safetensors.write(folder / VISUAL, {path: np.asarray(leaf) for path, leaf in leaves.items()}, about)


def to_reference(source: str, step: Step, arguments: Sequence[str]) -> dict[str, np.ndarray]:
    """A run as the reference saves it at the end."""
    _, model, variables = read_run(source, step, arguments)
    return to_vl_bart_reference(model, variables)


def from_reference(
    out: Path, tensors: Mapping[str, np.ndarray], hyper: Mapping[str, Any], base: str, source: str
) -> str:
    """Writes a checkpoint of the reference as a file that `--init_from` takes.

    Args:
      hyper: settings of adapters, and visual options where they are not the published ones.
      base: the folder that the checkpoint's model was made from, for its config and tokenizer.
    """
    folder = locate_folder(base)
    config = {"feat_dim": 2048, **read_json(folder / CONFIG), **hyper}
    model, variables = vl_bart_reference(config, tensors, hyper)
    write_model_file(out, model, variables, base, source)
    count = len(tables.flatten(variables))
    return f"{count} leaves of a VL-BART with its adapters; train or evaluate with --init_from={out}"


def write_model_file(out: Path, model: Bart, variables: Mapping[str, Any], base: str, source: str) -> None:
    """A whole model in one file; `image_text.source` reads it."""
    about: dict[str, Any] = {"bart": schema.encode(model.spec, BartSpec), "tokenizer": base, "source": source}
    adapters = adapters_of(model)
    if adapters:
        spec = next(iter(adapters.values()))
        sites = tuple(f"^{site}$" for site in adapters)
        options = {"up_projections": spec.up_projections, "temperature": spec.temperature, "diagonal": spec.diagonal}
        adapter = Adapter(spec.method, spec.rank, spec.scale * spec.rank, dropout=0.0, sites=sites, **options)
        about |= {"adapter": schema.encode(adapter, Adapter), "tasks": list(spec.tasks)}
    leaves = {path: np.asarray(leaf) for path, leaf in tables.flatten(variables).items()}
    safetensors.write(out, leaves, about)

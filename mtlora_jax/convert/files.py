"""Whole models in one file: leaves by path, and the model's shape as JSON beside them."""

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from mtlora_jax import schema
from mtlora_jax.convert.reference import abstract
from mtlora_jax.engine.run import Step
from mtlora_jax.errors import UserError
from mtlora_jax.vision.model import DenseModel, HeadSpec
from mtlora_jax.weights import mapping, safetensors
from mtlora_jax.weights.hub import read

FIELDS = ("backbone", "placement", "decoder_channels", "shared_projection", "head_width", "folded")
"""What makes a model, beside its heads and the dtype it computes in."""


def write_model(path: str | Path, model: DenseModel, variables: Mapping[str, Any], source: str) -> None:
    """Writes a model that `read_model` and a recipe's `init_from` can read.

    Args:
      source: where the weights come from, for the record.
    """
    hints = typing.get_type_hints(DenseModel)
    about = {name: schema.encode(getattr(model, name), hints[name], name) for name in FIELDS}
    about["heads"] = {task: [head.channels, head.kind] for task, head in model.heads.items()}
    leaves = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    safetensors.write(path, leaves, {"source": source, "model": about})


def read_model(
    path: str | Path, step: Step = "last", arguments: Sequence[str] = ()
) -> tuple[DenseModel, dict[str, Any]]:
    """A model and its variables, from a file of `write_model` or the directory of a run.

    Args:
      step: which checkpoint of a run.
      arguments: overrides of a run's config, such as `--init_from=FILE`.

    Raises:
      UserError: neither of the two, damaged, or leaves that do not fit the model.
    """
    path = Path(path)
    if path.is_dir():
        return _read_run(path, step, arguments)
    leaves, about = read(path)
    if "model" not in about or not isinstance(about["model"], str):
        raise UserError(f"{path} holds no whole model: make one with python -m mtlora_jax.convert reference")
    hints = typing.get_type_hints(DenseModel)
    fields = json.loads(about["model"])
    heads = {task: HeadSpec(*head) for task, head in fields["heads"].items()}
    model = DenseModel(heads=heads, **{name: schema.decode(fields[name], hints[name], name) for name in FIELDS})
    as_they_are = (mapping.Row(r".*", (r"\g<0>",)),)
    leaves = mapping.load(leaves, abstract(model), as_they_are, where=str(path))
    return model, traverse_util.unflatten_dict(leaves, sep="/")


def _read_run(workdir: Path, step: Step, arguments: Sequence[str]) -> tuple[DenseModel, dict[str, Any]]:
    # The training machinery is large, and only this way in needs it.
    from mtlora_jax.cli import open_trained
    from mtlora_jax.vision.config import VisionConfig
    from mtlora_jax.vision.workload import make_model

    run = open_trained(workdir, arguments)
    if not isinstance(run.config, VisionConfig):
        raise UserError(f"{workdir} holds no run of dense tasks: {type(run.config).__name__}")
    return make_model(run.config).clone(dtype=None), jax.device_get(run.variables(step))

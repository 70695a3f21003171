"""The reference calls two tasks differently than this library; here a model's tasks change their names."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flax import traverse_util

from mtlora_jax.vision.model import DenseModel

OURS = {"sal": "saliency", "edge": "edges"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}

WHERE = (
    r"^params/projections/([^/]+)(?=/)",
    r"^(?:params|batch_stats)/heads_([^/]+)(?=/)",
    r"^lora/.*/tasks/([^/]+)(?=/)",
)
"""Where a path names a task: the group."""


def rename(model: DenseModel, variables: Mapping[str, Any], names: Mapping[str, str]) -> tuple[DenseModel, dict]:
    """A model and its variables with tasks renamed; the same function under other names.

    Args:
      names: old to new; tasks that it lacks keep theirs.
    """

    def keyed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(task, task): value for task, value in values.items()}

    placement = model.placement
    if placement is not None:
        placement = replace(placement, task_rank=keyed(placement.task_rank), task_scale=keyed(placement.task_scale))
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    renamed = {_path(path, names): leaf for path, leaf in flat.items()}
    model = model.clone(heads=keyed(model.heads), placement=placement)
    return model, traverse_util.unflatten_dict(renamed, sep="/")


def _path(path: str, names: Mapping[str, str]) -> str:
    for where in WHERE:
        if match := re.search(where, path):
            return path[: match.start(1)] + names.get(match[1], match[1]) + path[match.end(1) :]
    return path

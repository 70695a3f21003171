"""Folding MTLoRA into a Swin's kernels for inference: exactly, or not at all."""

import jax
import jax.numpy as jnp
from flax import traverse_util

from mtlora_jax.adapters import COLLECTION, TASKS, CannotMerge, Dense, merge, sites
from mtlora_jax.engine import tables
from mtlora_jax.engine.partition import split
from mtlora_jax.errors import UserError
from mtlora_jax.vision.model import DenseModel
from mtlora_jax.vision.trainable import owner_rows

Path = tuple[str, ...]


def fold(model: DenseModel, variables: dict) -> tuple[DenseModel, dict]:
    """The same function with fewer adapters: whatever is a change of a kernel becomes one.

    Layers with a shared update only, the last blocks' qkv and patch merging included, become plain. With
    `task_base="per_task"` (but not in mode `addition`) the last blocks' layers keep one kernel per stream, the
    trunk's and each task's; this drops the rank products, and costs a whole product per task in the layer where
    task streams begin. All other layers keep their adapters: see `export_task` for why.

    Args:
      model: unfolded; a folded one comes back as it is.
      variables: its `params`, `lora` and `batch_stats`; not changed.

    Returns:
      The model with `folded=True`, and its variables, without `lora` where nothing is left.

    Raises:
      ValueError: adapter leaves are missing, of another shape, or left over.
    """
    if model.placement is None or model.folded:
        return model, variables
    folded = model.clone(folded=True)
    before, after = adapted(model), adapted(folded)
    variables = merge(variables, {path: layer for path, layer in before.items() if path not in after})
    per_stream = {path: layer for path, layer in after.items() if layer.adapter != before[path].adapter}
    return folded, _one_kernel_per_stream(variables, {path: before[path] for path in per_stream})


def _one_kernel_per_stream(variables: dict, layers: dict[Path, Dense]) -> dict:
    """Shared updates go into the kernels, every task's difference from there into a leaf of `Full`."""
    trunk = merge(variables, layers)
    kernels = traverse_util.flatten_dict(trunk["params"])
    leaves = traverse_util.flatten_dict(trunk.get(COLLECTION, {}))
    for task in next((layer.adapter.tasks for layer in layers.values()), ()):
        own = traverse_util.flatten_dict(merge(variables, layers, task)["params"])
        for path in layers:
            leaves[(*path, TASKS, task, "delta")] = own[(*path, "kernel")] - kernels[(*path, "kernel")]
    return trunk | ({COLLECTION: traverse_util.unflatten_dict(leaves)} if leaves else {})


def export_task(model: DenseModel, variables: dict, task: str) -> tuple[DenseModel, dict]:
    """One task as a plain Swin with its projection and head, every adapter merged.

    Exact where no task update reaches a feature map (mode `lora_only`, or fc2 not adapted), and with
    `task_base="per_task"` where only the last stage has task updates.

    Args:
      model: any; not changed.
      variables: its `params`, `lora` and `batch_stats`; not changed.
      task: which.

    Returns:
      A model without placement for this task alone, and its variables.

    Raises:
      UserError: the model has no such task.
      CannotMerge: no plain Swin is this task. With the published `task_base` its layers add the kernel of the shared
        stream to an update of the task's own; with `per_task` the last block of every stage but the last keeps two
        kernel sets, one for the trunk and one for the task's feature map.
    """
    if task not in model.heads:
        raise UserError(f"the model has no task {task!r}: its tasks are {', '.join(model.heads)}")
    model, variables = fold(model, variables)
    if left := adapted(model):
        # Without fc2 no task stream reaches a feature map: the task reads the shared one.
        variables = merge(variables, left, task if model.placement.fc2 else None)
        _refuse_two_kernel_sets(model, left)
    owners = owner_rows(tuple(model.heads))
    variables, _ = split(variables, lambda path: tables.owner(owners, path) in (None, task))
    return model.clone(heads={task: model.heads[task]}, placement=None, folded=False), variables


def _refuse_two_kernel_sets(model: DenseModel, layers: dict[Path, Dense]) -> None:
    """Raises CannotMerge unless every layer left is read by the task alone, which the last block's are."""
    stage = model.backbone.stages - 1
    task_only = ("backbone", f"layers_{stage}", f"blocks_{model.backbone.depths[stage] - 1}")
    for path in layers:
        if path[:3] != task_only:
            raise CannotMerge(
                f"{'/'.join(path)} has two kernels, one for the trunk and one for the task: not a plain Swin"
            )
    placement = model.placement
    if not (placement.fc1 if placement.proj else placement.task_residual == "kept"):
        raise CannotMerge(
            f"{'/'.join(task_only)} adapts only a part of its layers: what the others compute for the shared stream "
            "is not what a plain block computes for the task's"
        )


def adapted(model: DenseModel) -> dict[Path, Dense]:
    """The model's layers that carry an adapter, by path."""
    side = model.backbone.image_size
    return sites(model, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))

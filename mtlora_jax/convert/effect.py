"""Weights that were converted and do nothing: the one fault that no shape and no name shows."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import COLLECTION, Dense, method_of
from mtlora_jax.adapters.leaf import is_fresh
from mtlora_jax.errors import UserError

Path = tuple[str, ...]


def check_acts(variables: Mapping, layers: Mapping[Path, Dense], what: str) -> None:
    """Raises UserError where adapters are not fresh and yet no layer's output differs from its base's.

    Args:
      variables: `params` and `lora`.
      layers: the adapted layers by path, as `adapters.sites` lists them.
      what: what to call the adapters in the message.
    """
    trained = 0
    for path, layer in layers.items():
        for leaves, kernel in _slots(variables, path, layer):
            if is_fresh(method_of(layer.adapter).declare(layer.adapter, *kernel.shape[-2:]), leaves):
                continue
            trained += 1
            if _acts(layer, leaves, kernel):
                return
    if trained:
        raise UserError(
            f"{what}: the adapters of {trained} layers are trained and change no layer's output: is their scale 0, or "
            "do they belong to other weights?"
        )


def check_merged(before: Mapping, after: Mapping, variables: Mapping, layers: Mapping[Path, Dense], what: str) -> None:
    """Raises UserError where adapters that are not fresh were merged and no kernel changed.

    Args:
      before, after: the `params` without and with the adapters merged.
      variables, layers: as in `check_acts`; the layers that were merged.
    """
    before, after = (traverse_util.flatten_dict(dict(tree)) for tree in (before, after))
    trained = [
        path
        for path, layer in layers.items()
        if not all(
            is_fresh(method_of(layer.adapter).declare(layer.adapter, *kernel.shape[-2:]), leaves)
            for leaves, kernel in _slots(variables, path, layer)
        )
    ]
    changed = (np.any(np.asarray(before[(*path, "kernel")] != after[(*path, "kernel")])) for path in trained)
    if trained and not any(changed):
        raise UserError(
            f"{what}: {len(trained)} layers were merged and no kernel changed: the updates are smaller than a step of "
            f"{after[(*trained[0], 'kernel')].dtype}"
        )


def _slots(variables: Mapping, path: Path, layer: Dense) -> list[tuple[dict, jax.Array]]:
    """The leaves and the kernel columns of every slot of a layer."""
    kernel, stored = variables["params"], variables.get(COLLECTION, {})
    for part in path:
        kernel, stored = kernel[part], stored.get(part, {})
    kernels = np.split(np.asarray(kernel["kernel"]), max(len(layer.slots), 1), axis=-1)
    return [(dict(stored[slot] if slot else stored), k) for slot, k in zip(layer.slots or ("",), kernels, strict=True)]


def _acts(layer: Dense, leaves: Mapping, kernel: np.ndarray) -> bool:
    """Whether some output of a layer, or of one layer of a scan, differs from its base's for some task."""
    if kernel.ndim > 2:
        return any(
            _acts(layer, jax.tree.map(lambda leaf, i=i: leaf[i], dict(leaves)), kernel[i]) for i in range(len(kernel))
        )
    spec, tasks = layer.adapter, max(len(getattr(layer.adapter, "tasks", ())), 1)
    x = np.random.default_rng(0).normal(size=(tasks, kernel.shape[0])).astype(np.float32)
    task_id = np.arange(tasks, dtype=np.int32) if spec.needs_task_id else None
    y = method_of(spec).apply(spec, leaves, kernel.astype(np.float32), None, x, task_id=task_id)
    base = x @ kernel.astype(np.float32)
    # Rounding aside: a fresh adapter is exact to 1e-6 of the output.
    return any(np.abs(np.asarray(out) - base).max() > 1e-5 * np.abs(base).max() for out in jax.tree.leaves(y))

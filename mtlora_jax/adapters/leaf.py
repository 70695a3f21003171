"""Adapter leaves: declared once, drawn from explicit keys, checked wherever they are read."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

COLLECTION = "lora"
"""The Flax collection that holds adapter leaves and nothing else."""
TASKS = "tasks"
"""Below a layer, leaves that one task owns lie at `tasks/<task>/<leaf>`: the path says whose they are."""

Leaves = dict[str, Any]
"""Arrays by name, and below `TASKS` a dict of them for each task."""


class Leaf(NamedTuple):
    """One array of an adapter: its shape and how a fresh one is drawn, `init(key, shape, dtype)`."""

    shape: tuple[int, ...]
    init: Callable


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """U(-1/sqrt(in), 1/sqrt(in)) for a map `[..., in, out]`: Kaiming-uniform with a = sqrt(5)."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


zeros = nn.initializers.zeros
constant = nn.initializers.constant


def draw(declared: Mapping, key: jax.Array, dtype=jnp.float32) -> Leaves:
    """Draws every declared leaf from a key of its own name, so that adding a leaf changes no other."""
    flat = traverse_util.flatten_dict(declared)
    names = {path: "_".join(part for part in path if part != TASKS) for path in flat}
    # Two leaves of one name (a task may be called "shared") are told apart by their paths.
    count = Counter(names.values())
    names = {path: name if count[name] == 1 else "/".join(path) for path, name in names.items()}
    return traverse_util.unflatten_dict(
        {
            path: leaf.init(jax.random.fold_in(key, zlib.crc32(names[path].encode())), leaf.shape, dtype)
            for path, leaf in flat.items()
        }
    )


def is_fresh(declared: Mapping, leaves: Mapping) -> bool:
    """Whether every leaf that starts at zero still is zero: the update is, then."""
    flat = traverse_util.flatten_dict(leaves)
    return not any(
        flat[path].any() for path, leaf in traverse_util.flatten_dict(declared).items() if leaf.init is zeros
    )


def check(declared: Mapping, leaves: Mapping, where: str = "adapter") -> None:
    """Compares leaves with their declaration.

    Raises:
      ValueError: a leaf is missing, of another shape, or was never declared; the message names its path.
    """
    wanted, found = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (declared, leaves))
    for name, leaf in wanted.items():
        if name not in found:
            raise ValueError(f"{where}/{name} is missing: the adapter needs a leaf of shape {leaf.shape}")
        if jnp.shape(found[name]) != leaf.shape:
            raise ValueError(
                f"{where}/{name} has shape {jnp.shape(found[name])}, the adapter declares {leaf.shape}: "
                "was it trained with another rank?"
            )
    if extra := sorted(set(found) - set(wanted)):
        raise ValueError(f"{where}/{extra[0]} is not a leaf of this adapter: it declares {sorted(wanted)}")


def read(module: nn.Module, declared: Mapping, slots: tuple[str, ...] = ()) -> list[Leaves]:
    """Reads a Flax module's leaves from the `lora` collection, drawing them while the module initialises.

    Flax itself checks neither shapes nor leftovers of such variables, so this does.

    Args:
      module: the bound module whose path the leaves share.
      declared: what the adapter method declares.
      slots: sub-paths, where one layer carries several adapters (`q`, `k`, `v`).

    Returns:
      Leaves as declared, for every slot; one set where there are no slots.

    Raises:
      ValueError: see `check`; the message holds the module's path. Or leaves lie beside the slots.
    """
    if module.is_initializing():
        drawn = [draw(declared, module.make_rng(COLLECTION)) for _ in slots or ("",)]
        for name, value in dict(zip(slots, drawn, strict=True)).items() if slots else drawn[0].items():
            module.variable(COLLECTION, name, lambda v=value: v)
        return drawn
    where, stored = (COLLECTION, *module.path), module.variables.get(COLLECTION, {})
    if not slots:
        check(declared, stored, "/".join(where))
        return [dict(stored)]
    if extra := sorted(set(stored) - set(slots)):
        raise ValueError(f"{'/'.join(where)}/{extra[0]} is not a slot of this layer: its slots are {', '.join(slots)}")
    for slot in slots:
        check(declared, stored.get(slot, {}), "/".join((*where, slot)))
    return [dict(stored[slot]) for slot in slots]


def refuse(module: nn.Module) -> None:
    """Raises where adapter leaves are passed to a layer that was built without an adapter (Flax ignores them)."""
    if stored := module.variables.get(COLLECTION):
        path = "/".join((COLLECTION, *module.path, next(iter(stored))))
        raise ValueError(f"{path} was passed to a layer built without an adapter")

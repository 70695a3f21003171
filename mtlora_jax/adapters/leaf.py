"""Adapter leaves: declared once, drawn from explicit keys, checked wherever they are read."""

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

COLLECTION = "lora"
"""The Flax collection that holds adapter leaves and nothing else."""


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


def draw(declared: Mapping[str, Leaf], key: jax.Array, dtype=jnp.float32) -> dict[str, jax.Array]:
    """Draws every declared leaf from a key of its own name, so that adding a leaf changes no other."""
    return {
        name: leaf.init(jax.random.fold_in(key, zlib.crc32(name.encode())), leaf.shape, dtype)
        for name, leaf in declared.items()
    }


def check(declared: Mapping[str, Leaf], leaves: Mapping[str, jax.Array], where: str = "adapter") -> None:
    """Compares leaves with their declaration.

    Raises:
      ValueError: a leaf is missing, of another shape, or was never declared; the message names its path.
    """
    for name, leaf in declared.items():
        if name not in leaves:
            raise ValueError(f"{where}/{name} is missing: the adapter needs a leaf of shape {leaf.shape}")
        if jnp.shape(leaves[name]) != leaf.shape:
            raise ValueError(
                f"{where}/{name} has shape {jnp.shape(leaves[name])}, the adapter declares {leaf.shape}: "
                "was it trained with another rank?"
            )
    if extra := sorted(set(leaves) - set(declared)):
        raise ValueError(f"{where}/{extra[0]} is not a leaf of this adapter: it declares {sorted(declared)}")


def read(module: nn.Module, declared: Mapping[str, Leaf], slots: tuple[str, ...] = ()) -> list[dict[str, jax.Array]]:
    """Reads a Flax module's leaves from the `lora` collection, drawing them while the module initialises.

    Flax itself checks neither shapes nor leftovers of such variables, so this does.

    Args:
      module: the bound module whose path the leaves share.
      declared: what the adapter method declares.
      slots: sub-paths, where one layer carries several adapters (`q`, `k`, `v`).

    Returns:
      `{name: array}` as declared, for every slot; one where there are no slots.

    Raises:
      ValueError: see `check`; the message holds the module's path. Or leaves lie beside the slots.
    """
    if module.is_initializing():
        draws = [draw(declared, module.make_rng(COLLECTION)) for _ in slots or ("",)]
        for name, value in dict(zip(slots, draws, strict=True)).items() if slots else draws[0].items():
            module.variable(COLLECTION, name, lambda v=value: v)
        return draws
    where, stored = (COLLECTION, *module.path), module.variables.get(COLLECTION, {})
    if not slots:
        check(declared, stored, "/".join(where))
        return [dict(stored)]
    if extra := sorted(set(stored) - set(slots)):
        raise ValueError(f"{'/'.join(where)}/{extra[0]} is no slot of this layer: its slots are {', '.join(slots)}")
    for slot in slots:
        check(declared, stored.get(slot, {}), "/".join((*where, slot)))
    return [dict(stored[slot]) for slot in slots]


def refuse(module: nn.Module) -> None:
    """Raises where adapter leaves are passed to a layer that was built without an adapter (Flax ignores them)."""
    if stored := module.variables.get(COLLECTION):
        path = "/".join((COLLECTION, *module.path, next(iter(stored))))
        raise ValueError(f"{path} was passed to a layer built without an adapter")

"""Streams: one shared tensor and one per task, moving through a network together (MTLoRA, section 3).

>>> import jax.numpy as jnp
>>> x = Streams(shared=jnp.ones((3, 8)), tasks=jnp.ones((2, 3, 8)))
>>> smap(jnp.tanh, x).tasks.shape
(2, 3, 8)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import struct

PARTS = "parts"
"""The name that policies know by what the streams of a layer's output are made of: the shared product, and updates in
rank space."""


@struct.dataclass
class Streams:
    """A shared activation and its task-specific companions.

    Attributes:
      shared: `[B, ..., C]`.
      tasks: `[T, B, ..., C]`, in the order of the config's tasks. One array and not a dict, so that remat, scan
        and sharding see plain arrays; only its `B` axis is sharded.
    """

    shared: jax.Array
    tasks: jax.Array

    def map(self, fn: Callable[[jax.Array], jax.Array]) -> Streams:
        """Applies `fn` to every stream. `fn` must accept leading axes it does not know: it gets `[T, B, ...]`."""
        return Streams(fn(self.shared), fn(self.tasks))


def smap(fn: Callable[[jax.Array], jax.Array], x: jax.Array | Streams) -> jax.Array | Streams:
    """`fn` of an array, or of every stream."""
    return x.map(fn) if isinstance(x, Streams) else fn(x)


def each_stream(
    fn: Callable[[jax.Array, jax.Array | None], jax.Array], x: jax.Array | Streams, key: jax.Array | None
) -> jax.Array | Streams:
    """`fn(x, key)` of an array, or of every stream with a key of its own; keys may be None."""
    if not isinstance(x, Streams):
        return fn(x, key)
    keys = (None, None) if key is None else jax.random.split(key)
    return Streams(fn(x.shared, keys[0]), fn(x.tasks, keys[1]))


def shared(x: jax.Array | Streams) -> jax.Array:
    """The shared activation `[B, ..., C]`, whether or not task streams travel with it."""
    return x.shared if isinstance(x, Streams) else x


def check_tasks(tasks: tuple[str, ...], x: jax.Array | Streams) -> None:
    """Raises ValueError where streams come in another number than a layer's tasks."""
    if isinstance(x, Streams) and x.tasks.shape[0] != len(tasks):
        raise ValueError(f"{x.tasks.shape[0]} task streams reached a layer of {len(tasks)} tasks: {', '.join(tasks)}")

"""The device mesh, and how a batch lies on it."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mtlora_jax import config
from mtlora_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that examples are divided over."""


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh with the axes data, fsdp and tensor, whatever their sizes.

    Every axis is Auto: under explicit axes window partitions and per-example gathers do not trace.

    Args:
      sizes: devices along each axis; -1 takes what the others leave.
      devices: those to use; all by default.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    axes = vars(sizes)
    fixed = math.prod(n for n in axes.values() if n != -1)
    shape = tuple(len(devices) // fixed if n == -1 else n for n in axes.values())
    if math.prod(shape) != len(devices):
        wanted = " x ".join(f"{name}={n}" for name, n in axes.items())
        raise UserError(f"mesh: {wanted} does not fit {len(devices)} devices; set --mesh.data=-1 or another size")
    return jax.make_mesh(shape, tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading `B` axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts a batch is cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh, key: str = "train.batch_size") -> None:
    """Raises UserError where a global batch does not divide over the mesh; `key` names it in the config."""
    if batch_size % (shards := batch_shards(mesh)):
        below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
        choices = f"{below} or {above}" if below else str(above)
        raise UserError(f"{key} = {batch_size} does not divide over {shards} devices; try {choices}")


def put_batch(batch: Mapping, mesh: jax.sharding.Mesh) -> dict:
    """A host batch as global arrays on the mesh; its `id` stays behind.

    Args:
      batch: a tree of numpy arrays `[B / processes, ...]`, this process's rows of the global batch.

    Returns:
      The tree with arrays `[B, ...]`.
    """
    sharding = batch_sharding(mesh)
    arrays = {name: value for name, value in batch.items() if name != "id"}
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), arrays)

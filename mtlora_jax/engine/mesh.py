"""The device mesh, and how a batch lies on it."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mtlora_jax import config
from mtlora_jax.devices import BATCH_AXES, traced
from mtlora_jax.errors import UserError


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


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh, key: str = "train.batch_size", parts: int = 1) -> None:
    """Raises UserError where a global batch, computed in some parts, does not divide over the mesh; `key` names it in
    the config."""
    if batch_size % (share := batch_shards(mesh) * parts):
        below, above = batch_size // share * share, -(-batch_size // share) * share
        choices = f"{below} or {above}" if below else str(above)
        over = f"{batch_shards(mesh)} devices" + (f" and {parts} parts (train.accumulate)" if parts > 1 else "")
        raise UserError(f"{key} = {batch_size} does not divide over {over}; try {choices}")


def parts_of_batch() -> int:
    """Into how many parts the mesh that a step is traced for cuts its batch."""
    mesh = traced()
    return 1 if mesh is None else batch_shards(mesh)


def along_batch(x: jax.Array) -> jax.Array:
    """Activations `[B, ...]`, kept cut along their examples where a step is traced for a mesh; elsewhere as they are.

    Left alone, the compiler may cut them as a weight is cut that made them, and then sends activations around in every
    layer, where the layer's weights would have been less.
    """
    mesh = traced()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def own_rows(batch_size: int, mesh: jax.sharding.Mesh) -> list[int]:
    """The rows of a global batch that this process's devices hold, rising."""
    cuts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (cut,) in cuts for row in range(batch_size)[cut]})


def put_batch(batch: Mapping, mesh: jax.sharding.Mesh, whole: bool = False) -> dict:
    """A host batch as global arrays on the mesh; its `id` stays behind.

    Args:
      batch: a tree of numpy arrays `[rows, ...]`, this process's `own_rows` of the global batch.
      whole: it holds all rows of the global batch, on every process.

    Returns:
      The tree with arrays `[B, ...]`.
    """
    arrays = {name: value for name, value in batch.items() if name != "id"}
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(jax.tree.map(np.asarray, arrays), sharding)
    shards = batch_shards(mesh)
    own = shards if whole else len(own_rows(shards, mesh))

    def put(x: np.ndarray) -> jax.Array:
        x, size = np.asarray(x), len(x) * shards // own
        place = {row: i for i, row in enumerate(range(size) if whole else own_rows(size, mesh))}

        def cut(index: tuple[slice, ...]) -> np.ndarray:
            rows = range(size)[index[0]]
            return x[place[rows[0]] : place[rows[0]] + len(rows)]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, cut)

    return jax.tree.map(put, arrays)


def put_leaf(leaf: np.ndarray | jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array, or one of this process, as a global array; processes hold only their own shards of it."""
    if sharding.is_fully_addressable:
        return jnp.asarray(jax.device_put(leaf, sharding))
    return put_parts(np.shape(leaf), sharding, lambda index: np.asarray(leaf[index]))


Block = tuple[tuple[int, int], ...]
"""A part of an array, from where to where along each axis."""


def put_parts(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, part: Callable[[tuple[slice, ...]], np.ndarray]
) -> jax.Array:
    """A global array of which a process makes what its devices hold, each number once and as few blocks as possible;
    `part` gets a slice for each axis."""

    def block(index: tuple[slice, ...]) -> Block:
        return tuple(of.indices(size)[:2] for of, size in zip(index, shape, strict=True))

    held = {block(index) for index in sharding.addressable_devices_indices_map(shape).values()}
    made = {whole: part(tuple(slice(*of) for of in whole)) for whole in joined(held)}

    def cut(index: tuple[slice, ...]) -> np.ndarray:
        own = block(index)
        whole = own if own in made else next(iter(made))
        return made[whole][tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(own, whole, strict=True))]

    return jax.make_array_from_callback(shape, sharding, cut)


def joined(blocks: set[Block]) -> set[Block]:
    """The one block that these, of which no two meet, make together; where they do not, as they are."""
    around = tuple((min(a for a, _ in of), max(b for _, b in of)) for of in zip(*blocks, strict=True))
    return {around} if _size(around) == sum(map(_size, blocks)) else blocks


def _size(block: Block) -> int:
    return math.prod(stop - start for start, stop in block)

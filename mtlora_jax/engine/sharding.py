"""Where every leaf lies: logical names for its axes, and the mesh axis that each name is cut over.

A domain names the trailing axes of its leaves in a table of (path regex, names). Rows are searched for in a path, so
that an optimizer's moments, whose paths end in their leaf's, lie where the leaf lies. Leaves that no row finds, names
without a mesh axis, and axes that a mesh does not divide are replicated: any leaf of any rank is legal on any mesh.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mtlora_jax.devices import traced
from mtlora_jax.engine import tables

Axes = tables.Table[tuple[str | None, ...]]

MESH_AXES: Mapping[str | None, str] = {"embed": "fsdp", "inner": "tensor", "vocab": "tensor"}
"""What a logical axis is cut over. `embed` is the model's width; `inner` is that inside attention or an MLP."""
LARGE = 1 << 20
"""Bytes; larger leaves that a mesh could cut and leaves whole are named."""


def partition_spec(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    """The cut of one leaf.

    Args:
      names: names of its trailing axes; axes before them (layers, tasks, experts) are not cut.
      shape: the leaf's. With fewer axes than names, the last names count.
    """
    aligned = (None,) * (len(shape) - len(names)) + names[max(len(names) - len(shape), 0) :]
    cut: list[str | None] = []
    for size, name in zip(shape, aligned, strict=True):
        axis = MESH_AXES.get(name)
        fits = axis is not None and axis not in cut and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        cut.append(axis if fits else None)
    while cut and cut[-1] is None:  # the compiler drops these too, and takes the two forms for different ones
        cut.pop()
    return PartitionSpec(*cut)


def constrained(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """An array within a step, cut as these names say on the mesh that the step is traced for."""
    mesh = traced()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition_spec(names, x.shape, mesh)))


def shardings(axes: Axes, tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The sharding of every leaf, in the tree's structure.

    Args:
      axes: (path regex, logical names of trailing axes) rows.
      tree: arrays or shapes at paths `.../collection/module/.../leaf`.
    """
    placed = [
        NamedSharding(mesh, partition_spec(tables.match(axes, path, ()), leaf.shape, mesh))
        for path, leaf in tables.flatten(tree).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def whole_leaves(axes: Axes, tree: Any, mesh: jax.sharding.Mesh) -> list[str]:
    """The paths of leaves over `LARGE` that every device holds whole, on a mesh that cuts weights at all."""
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return []
    return [
        path
        for path, leaf in tables.flatten(tree).items()
        if leaf.size * leaf.dtype.itemsize > LARGE
        and not partition_spec(tables.match(axes, path, ()), leaf.shape, mesh)
    ]


def bytes_per_device(axes: Axes, tree: Any, mesh: jax.sharding.Mesh) -> int:
    """Bytes of a tree's leaves, or shapes, on one device of the mesh."""
    shapes = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings(axes, tree, mesh)), strict=True)
    return sum(math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, where in shapes)

"""What a run would be, without data, weights or a step: `train.py --dry_run`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mtlora_jax.config import Config
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import tables
from mtlora_jax.engine.mesh import batch_shards, check_batch_size, make_mesh
from mtlora_jax.engine.partition import MODEL_COLLECTIONS, join, split_variables
from mtlora_jax.engine.sharding import bytes_per_device
from mtlora_jax.engine.state import abstract_variables, optimizer_of, table_notices, weight_labels
from mtlora_jax.engine.step import finish
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.listing import GIB
from mtlora_jax.mirrors import home, opened


def shaped(config: Config) -> tuple[Config, Workload]:
    """The config and its workload; without its base, where that is not at hand and the recipe says its shape.

    Raises:
      UserError: the base is needed and not at hand.
    """
    try:
        workload = workload_of(config)
        abstract_variables(workload, config)
        return config, workload
    except UserError as error:
        model, base = getattr(config, "model", None), getattr(config, "init_from", None)
        if base is None or model is None or model == type(model)():
            raise
        bare = replace(config, init_from=None)
        print(f"{error}: the recipe's own shape of {base} is taken", file=sys.stderr)
        return bare, workload_of(bare)


def dry_run(config: Config, workload: Workload, workdir: str | Path) -> dict:
    """Prints the parameter table, mesh, batch and memory estimate, and writes them to `DIR/summary.json`.

    Everything is traced with shapes: it takes seconds at any size.

    Returns:
      The summary: `params_total`, `params_trainable`, parameters by label, mesh, batch and bytes per device.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, parts=config.train.accumulate)
    variables = abstract_variables(workload, config)
    labels = weight_labels(workload, variables)
    weights = {name: variables[name] for name in MODEL_COLLECTIONS if name in variables}
    trainable, frozen, mutable = split_variables(variables, labels)
    memory = memory_per_device(config, workload, Parts(trainable, frozen, mutable, labels), mesh)
    flat = tables.flatten(weights)
    summary = {
        "name": config.name,
        "params_total": tables.count(weights),
        "params_trainable": tables.count(trainable),
        "params_by_label": {
            label: sum(flat[path].size for path in flat if labels[path] == label)
            for label in sorted(set(labels.values()))
        },
        "mesh": dict(mesh.shape),
        "batch_size": config.train.batch_size,
        "steps": config.train.steps,
        "bytes_per_device": memory,
    }
    workdir = make_workdir(opened(workdir))
    write_json(workdir / "summary.json", summary)

    print(tables.parameter_table(weights, labels))
    for notice in table_notices(workload, weights, mesh):
        print(notice)
    print(f"\nmesh: {summary['mesh']} of {jax.devices()[0].device_kind}")
    print(f"batch: {config.train.batch_size}, {config.train.batch_size // batch_shards(mesh)} a device")
    print("memory a device, before the compiler saves any:")
    print(*(f"  {name:12s} {size / GIB:8.3f} GiB" for name, size in memory.items()), sep="\n")
    print(f"\nnothing was trained; wrote {home(workdir) / 'summary.json'}")
    return summary


@dataclass(frozen=True)
class Parts:
    """A model's variables as shapes, and the labels of its weights."""

    trainable: dict
    frozen: dict
    mutable: dict
    labels: dict[str, str]


def memory_per_device(config: Config, workload: Workload, parts: Parts, mesh: Mesh) -> dict[str, int]:
    """Bytes by kind: weights and moments as the workload's axes cut them, batch and activations over the batch axes.

    `activations` are all values the backward pass keeps; XLA recomputes some of them, so this is an upper bound.
    """
    batch, shards = workload.abstract_batch(config.train.batch_size), batch_shards(mesh)
    part = workload.abstract_batch(config.train.batch_size // config.train.accumulate)
    optimizer = optimizer_of(workload, config, parts.trainable, parts.labels)

    def backward(trainable, frozen, mutable, batch):
        def loss(trainable):
            key = workload.step_key(config.seed, jnp.zeros((), jnp.int32))
            outputs, _ = workload.forward(join(trainable, frozen, mutable), batch, key)
            return finish(workload, workload.sums(outputs, batch))["loss"]

        return jax.vjp(loss, trainable)[1]

    def on_device(tree: Any) -> int:
        return bytes_per_device(workload.axes, tree, mesh)

    kept = size(jax.eval_shape(backward, parts.trainable, parts.frozen, parts.mutable, part))
    memory = {
        "frozen": on_device(parts.frozen),
        "trainable": on_device(parts.trainable),
        "gradients": on_device(parts.trainable),
        "optimizer": on_device(jax.eval_shape(optimizer.init, parts.trainable)),
        "batch": size(batch) // shards,
        "activations": max(kept - size(parts.trainable) - size(parts.frozen), 0) // shards,
    }
    return {**memory, "total": sum(memory.values())}


def size(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""What a run starts from: leaves drawn or loaded, split by the trainable table, placed on the mesh."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh

from mtlora_jax.config import Config
from mtlora_jax.engine import tables
from mtlora_jax.engine.init import draw
from mtlora_jax.engine.mesh import replicated
from mtlora_jax.engine.optim import make_optimizer
from mtlora_jax.engine.partition import MODEL_COLLECTIONS, join, split_variables
from mtlora_jax.engine.sharding import shardings
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import UserError
from mtlora_jax.files import replacing

BASE = "base.safetensors"


@struct.dataclass
class State:
    """What training changes; everything of it is in a checkpoint.

    Attributes:
      step: updates done, int32 scalar.
      trainable: the trained part of the weights, `{"params": ..., "lora": ...}`.
      opt_state: the optimizer's, for `trainable` alone.
      mutable: collections that the forward pass rewrites (`batch_stats`).
    """

    step: jax.Array
    trainable: Any
    opt_state: Any
    mutable: Any

    def variables(self, frozen: Mapping) -> dict:
        """All collections, as a model takes them."""
        return join(self.trainable, frozen, self.mutable)


@dataclass(frozen=True)
class Start:
    """A run before its first step.

    Attributes:
      state: on the mesh, cut as the workload's axes say.
      frozen: weights that no step changes, on the mesh.
      optimizer: for `state.trainable`.
      fingerprint: of the frozen weights, to recognise them by.
    """

    state: State
    frozen: dict
    optimizer: optax.GradientTransformation
    fingerprint: str


def abstract_variables(workload: Workload, config: Config) -> dict:
    """The model's variables as shapes; nothing is drawn."""
    return jax.eval_shape(lambda: workload.init(config.seed))


def weight_labels(workload: Workload, variables: Mapping) -> dict[str, str]:
    """`{path: label}` of every weight. Rows of the table that match nothing are those of absent options."""
    weights = {name: variables[name] for name in MODEL_COLLECTIONS if name in variables}
    return tables.label_paths(workload.table, tables.paths(weights))[0]


def start(workload: Workload, config: Config, mesh: Mesh, workdir: Path | None = None) -> Start:
    """Draws what the pretrained base does not bring, and places everything on the mesh.

    Args:
      workdir: keeps frozen weights that no file holds in `base.safetensors`, written once and read from then on.

    Raises:
      UserError: the base has leaves that the model lacks, or of another shape.
    """
    shapes = traverse_util.flatten_dict(abstract_variables(workload, config), sep="/")
    labels = weight_labels(workload, traverse_util.unflatten_dict(shapes, sep="/"))
    base = workload.load_base()
    kept = None if workdir is None or base is not None else workdir / BASE
    if kept is not None and kept.exists():
        base = read_base(kept)
    base = {} if base is None else base
    check_leaves(base, shapes)
    leaves = draw(lambda: workload.init(config.seed), lambda path: path not in base)
    # Flax's order, not the order of loading, so that every run builds the same tree. One leaf of a base is in the
    # host's memory at a time. Frozen leaves keep the dtype they are stored in.
    placed = shardings(workload.axes, shapes, mesh)

    def place(path: str) -> jax.Array:
        leaf = leaves.pop(path) if path in leaves else np.asarray(base[path])
        dtype = leaf.dtype if labels.get(path) == "frozen" else shapes[path].dtype
        leaf = leaf if leaf.dtype == dtype else leaf.astype(dtype)
        return jnp.asarray(jax.device_put(leaf, placed[path]))

    for path in shapes:
        leaves[path] = place(path)
    variables = traverse_util.unflatten_dict(leaves, sep="/")
    trainable, frozen, mutable = split_variables(variables, labels)
    if kept is not None and not kept.exists() and frozen:
        write_base(kept, frozen)
    optimizer = make_optimizer(config.optim, config.train.steps, optimizer_labels(workload, trainable, labels))
    moments = shardings(workload.axes, jax.eval_shape(optimizer.init, trainable), mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=moments)(trainable)
    step = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    return Start(State(step, trainable, opt_state, mutable), frozen, optimizer, fingerprint(frozen))


def read_base(path: Path) -> dict[str, np.ndarray]:
    # Imported where needed: steps are also timed on machines that have jax, flax and optax alone.
    from safetensors.numpy import load_file

    return load_file(path)


def write_base(path: Path, frozen: Mapping) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({name: np.asarray(leaf) for name, leaf in tables.flatten(frozen).items()}, temporary)


def optimizer_labels(workload: Workload, trainable: Mapping, labels: Mapping[str, str]) -> Any:
    """`label`, or `label@task` for leaves that one task owns, in the trainable tree's structure."""

    def label(path: str) -> str:
        owner = tables.match(workload.owners, path)
        return f"{labels[path]}@{owner}" if owner and labels[path] != "unused" else labels[path]

    structure = jax.tree.structure(trainable)
    return jax.tree.unflatten(structure, [label(path) for path in tables.paths(trainable)])


def check_leaves(leaves: Mapping, shapes: Mapping) -> None:
    """Raises UserError for the first leaf that the model does not have, or has in another shape."""
    for path in leaves:
        if path not in shapes:
            raise UserError(f"the base holds {path}, which this model does not have")
        shape = leaves.shape(path) if hasattr(leaves, "shape") else leaves[path].shape
        if shape != shapes[path].shape:
            raise UserError(f"the base holds {path} in shape {shape}, this model needs {shapes[path].shape}")


def fingerprint(tree: Any) -> str:
    """A digest of a tree's paths, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(tables.flatten(tree).items()):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{path}{array.shape}{array.dtype}".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()

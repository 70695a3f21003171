"""What a run starts from: leaves drawn or loaded, split by the trainable table, placed on the mesh."""

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
from mtlora_jax.engine.borrowed import Borrowed, groups
from mtlora_jax.engine.claim import BASE
from mtlora_jax.engine.hosts import is_first, on_host
from mtlora_jax.engine.init import draw
from mtlora_jax.engine.mesh import put_leaf, put_parts, replicated
from mtlora_jax.engine.optim import make_optimizer, schedule
from mtlora_jax.engine.partition import MODEL_COLLECTIONS, join, split_variables
from mtlora_jax.engine.program import unread_leaves
from mtlora_jax.engine.sharding import shardings, whole_leaves
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import UserError
from mtlora_jax.listing import listed
from mtlora_jax.weights.fingerprint import fingerprint


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
class Weights:
    """A run's weights before its first step, on the mesh.

    Attributes:
      trainable: what is trained; shapes with shardings where it was not asked for.
      frozen: what no step changes.
      mutable: collections that the forward pass rewrites; shapes where they were not asked for.
      labels: `{path: label}` of every weight.
      fingerprint: a digest of the frozen weights and of what model they make, to recognise them by.
      sources: a line that says how many leaves came from where.
      homeless: no file holds the frozen weights: a work directory has to keep them.
    """

    trainable: dict
    frozen: dict
    mutable: dict
    labels: dict[str, str]
    fingerprint: str
    sources: str
    homeless: bool


@dataclass(frozen=True)
class Start:
    """A run before its first step.

    Attributes:
      state: on the mesh, cut as the workload's axes say.
      frozen: weights that no step changes, on the mesh.
      optimizer: trains `state.trainable`.
      learning_rate: `step -> ` its learning rate.
      fingerprint: a digest of the frozen weights.
      homeless: see `Weights`.
      notices: lines about what a reader may not expect.
    """

    state: State
    frozen: dict
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    fingerprint: str
    homeless: bool
    notices: tuple[str, ...]


def abstract_variables(workload: Workload, config: Config) -> dict:
    """The model's variables as shapes; nothing is drawn."""
    return jax.eval_shape(lambda: workload.init(config.seed))


def weight_labels(workload: Workload, variables: Mapping) -> dict[str, str]:
    """`{path: label}` of every weight: the table's, and `unused` for leaves that train and that no loss depends on."""
    weights = {name: variables[name] for name in MODEL_COLLECTIONS if name in variables}
    labels = tables.label_paths(workload.table, tables.paths(weights))
    if all(label == "frozen" for label in labels.values()):
        return labels

    def losses(variables, batch):
        outputs, _ = workload.forward(variables, batch, workload.step_key(0, jnp.zeros((), jnp.int32)))
        return workload.sums(outputs, batch)

    unread = unread_leaves(losses, dict(variables), workload.abstract_batch(1))
    return {path: "unused" if label != "frozen" and path in unread else label for path, label in labels.items()}


def place_weights(
    workload: Workload, config: Config, mesh: Mesh, workdir: Path | None = None, frozen_only: bool = False
) -> Weights:
    """Draws what the pretrained base does not bring, and places it on the mesh.

    Args:
      workdir: of a run that is gone on with: frozen weights that no other file holds are read from its
        `base.safetensors`.
      frozen_only: leave trainable and mutable leaves as shapes with shardings, for a checkpoint to fill.

    Raises:
      UserError: the base has leaves that the model lacks, or of another shape.
    """
    shapes = traverse_util.flatten_dict(abstract_variables(workload, config), sep="/")
    labels = weight_labels(workload, traverse_util.unflatten_dict(shapes, sep="/"))
    try:
        base = workload.load_base()
    except UserError as error:
        raise UserError(f"init_from: {error}; if the base has moved, say where with --init_from") from None
    homeless = base is None
    if homeless and workdir is not None and (workdir / BASE).exists():
        base = read_base(workdir / BASE)
    where = getattr(base, "where", "the base")
    if borrowed := isinstance(base, Borrowed):
        base = base.fitting(shapes)
    base = {} if base is None else base
    check_leaves(base, shapes)

    def is_placed(path: str) -> bool:
        return labels.get(path) == "frozen" or not frozen_only

    leaves: dict[str, Any] = draw(lambda: workload.init(config.seed), lambda path: path not in base and is_placed(path))
    taken, drawn = (f" ({groups(of)})" if of and borrowed else "" for of in (base, leaves))
    sources = f"{len(base)} leaves from {where}{taken}, {len(leaves)} drawn from seed {config.seed}{drawn}"
    # Flax's order, not the order of loading, so that every run builds the same tree. One leaf of a base is in the
    # host's memory at a time. Frozen leaves keep the dtype they are stored in.
    placed = shardings(workload.axes, shapes, mesh)

    in_parts = getattr(base, "has_parts", lambda path: False)

    def place(path: str) -> Any:
        if not is_placed(path):
            return jax.ShapeDtypeStruct(shapes[path].shape, shapes[path].dtype, sharding=placed[path])
        dtype = None if labels.get(path) == "frozen" else shapes[path].dtype

        def stored(leaf: Any) -> np.ndarray | jax.Array:
            return leaf if dtype in (None, leaf.dtype) else leaf.astype(dtype)

        if path not in leaves and not placed[path].is_fully_addressable and in_parts(path):
            return put_parts(shapes[path].shape, placed[path], lambda index: stored(base.part(path, index)))
        return put_leaf(stored(leaves.pop(path) if path in leaves else np.asarray(base[path])), placed[path])

    for path in shapes:
        leaves[path] = place(path)
    trainable, frozen, mutable = split_variables(traverse_util.unflatten_dict(leaves, sep="/"), labels)
    digest = fingerprint(frozen, workload.identity)
    return Weights(trainable, frozen, mutable, labels, digest, sources, homeless and bool(frozen))


def start(workload: Workload, config: Config, mesh: Mesh, workdir: Path | None = None) -> Start:
    """A run's weights and optimizer; arguments and errors as for `place_weights`."""
    weights = place_weights(workload, config, mesh, workdir)
    learning_rate = schedule(config.optim, config.train.steps)
    optimizer = optimizer_of(workload, config, weights.trainable, weights.labels)
    moments = shardings(workload.axes, jax.eval_shape(optimizer.init, weights.trainable), mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=moments)(weights.trainable)
    step = put_leaf(np.zeros((), np.int32), replicated(mesh))
    state = State(step, weights.trainable, opt_state, weights.mutable)
    notices = (f"weights: {weights.sources}", *table_notices(workload, join(weights.trainable, weights.frozen), mesh))
    homeless = weights.homeless
    return Start(state, weights.frozen, optimizer, learning_rate, weights.fingerprint, homeless, notices)


def table_notices(workload: Workload, weights: Mapping, mesh: Mesh) -> list[str]:
    """Lines about rows of the workload's tables that match no weight, and large weights that no axis of the mesh cuts.

    Args:
      weights: arrays or shapes, by collection.
    """
    paths = tables.paths(weights)
    lines = [
        f"no leaf matches {listed(map(repr, rows))} of the {name} table"
        for name, table in (("trainable", workload.table), ("sharding", workload.axes))
        if (rows := tables.unmatched_rows(table, paths))
    ]
    if whole := whole_leaves(workload.axes, weights, mesh):
        lines.append(
            f"every device holds the whole of {listed(whole)}: {len(whole)} leaves over 1 MB that no axis cuts"
        )
    return lines


def read_base(path: Path) -> dict[str, np.ndarray]:
    # Imported where needed: steps are also timed on machines that have jax, flax and optax alone.
    from mtlora_jax.weights import safetensors

    return safetensors.read(path)[0]


def write_base(workdir: Path, frozen: Mapping) -> None:
    """Keeps frozen weights that no other file holds."""
    from mtlora_jax.weights import safetensors

    leaves = on_host(tables.flatten(frozen))
    if is_first():
        safetensors.write(workdir / BASE, leaves, {})


def optimizer_of(
    workload: Workload, config: Config, trainable: Mapping, labels: Mapping[str, str]
) -> optax.GradientTransformationExtraArgs:
    """The workload's own, else what the config says for the leaves of every label; see `optim`."""
    if workload.optimizer is not None:
        return workload.optimizer(config)
    rate = schedule(config.optim, config.train.steps)
    return make_optimizer(config.optim, rate, optimizer_labels(workload, trainable, labels))


def optimizer_labels(workload: Workload, trainable: Mapping, labels: Mapping[str, str]) -> Any:
    """`label`, or `label@task` for leaves that one task owns, in the trainable tree's structure."""

    def label(path: str) -> str:
        owner = tables.owner(workload.owners, path)
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

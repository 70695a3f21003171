"""MTLoRA: a shared low-rank update and one per task (Agiza et al., CVPR 2024, section 3.2).

With `y = x_s W + b` of the shared input, `d = drop(x_s)`, `S = s (d A_s) B_s` and `D_t = s_t (u_t A_t) B_t`, where
`u_t` is the task's own stream, or `d` where task streams begin in this layer:

    mode       shared output            output of task t
    matrix     y + S                    y + D_t
    matrixv2   y + S                    y + S + D_t
    addition   y + LayerNorm(sum_t (y + D_t))   y + D_t
    lora_only  y + S                    none

The published task output takes the frozen product of the SHARED stream (`task_base="shared"`), so a task's layer is
a function of two inputs and merges into no kernel. `task_base="per_task"` takes it, and matrixv2's shared update, of
the task's own stream; each task is then an ordinary layer and merges exactly.

    >>> import jax, jax.numpy as jnp
    >>> from mtlora_jax.adapters import MTLoRA, mtlora
    >>> spec = MTLoRA(rank=4, tasks=("semseg", "depth"), task_ranks=(2, 1), task_scales=(4.0, 4.0))
    >>> leaves = mtlora.init(spec, jax.random.key(0), 8, 6)
    >>> leaves["shared_A"].shape, {task: own["A"].shape for task, own in leaves["tasks"].items()}
    ((8, 4), {'semseg': (8, 2), 'depth': (8, 1)})
    >>> y = mtlora.apply(spec, leaves, jnp.ones((8, 6)), None, jnp.ones((3, 8)))
    >>> y.shared.shape, y.tasks.shape
    ((3, 6), (2, 3, 6))
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import TASKS, Leaf, Leaves, constant, zeros
from mtlora_jax.adapters.methods.lora import affine, pair, updated
from mtlora_jax.adapters.spec import CannotMerge, Spec, defaults
from mtlora_jax.adapters.streams import PARTS, Streams, check_tasks

Mode = Literal["matrix", "matrixv2", "addition", "lora_only"]
TaskBase = Literal["shared", "per_task"]
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class MTLoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      rank: R of the shared update, at least 1.
      scale: its multiplier s (not alpha / R).
      tasks: task names in stream order; empty for a layer with the shared update only.
      task_ranks, task_scales: R_t and s_t, aligned with `tasks`; rank 0 leaves a task the plain product.
      mode: see the table above. Without tasks every mode is `matrix`.
      dropout: probability of dropping an entry of the shared update's input; task streams handed in are never
        dropped.
      trainable_scale, trainable_task_scales: make s, or every s_t, a leaf of shape `[1]`.
      task_base: the stream whose frozen product a task takes.
    """

    method: ClassVar[str] = "mtlora"
    rank: int = 8
    scale: float = 1.0
    tasks: tuple[str, ...] = ()
    task_ranks: tuple[int, ...] = ()
    task_scales: tuple[float, ...] = ()
    mode: Mode = "matrix"
    dropout: float = 0.0
    trainable_scale: bool = False
    trainable_task_scales: bool = False
    task_base: TaskBase = "shared"

    def __post_init__(self):
        if self.mode == "lora_only":
            for field in ("tasks", "task_ranks", "task_scales"):
                object.__setattr__(self, field, ())
        if not self.tasks:
            object.__setattr__(self, "mode", "matrix")
        check_dropout(self.dropout)
        if self.rank < 1:
            raise ValueError(f"MTLoRA needs a shared rank of at least 1, not {self.rank}")
        if not len(self.tasks) == len(self.task_ranks) == len(self.task_scales):
            raise ValueError(
                f"MTLoRA needs one rank and one scale per task: {len(self.tasks)} tasks, "
                f"{len(self.task_ranks)} ranks, {len(self.task_scales)} scales"
            )
        for name, rank in zip(self.tasks, self.task_ranks, strict=True):
            if rank < 0:
                raise ValueError(f"MTLoRA needs a rank of at least 0 for task {name}, not {rank}")
            if self.tasks.count(name) > 1:
                raise ValueError(f"MTLoRA has the task {name!r} twice")


def declare(spec: MTLoRA, d_in: int, d_out: int) -> Leaves:
    """`shared_A [in, R]`, `shared_B [R, out]`, and `A`, `B` below `tasks/<task>`; where asked `shared_scale [1]` and
    every task's `scale [1]`; in mode addition `norm_scale [out]`, `norm_bias [out]` instead of the shared pair. There
    nothing reads `shared_scale`, which the reference has all the same."""
    declared = {}
    if spec.mode == "addition":
        declared |= {"norm_scale": Leaf((d_out,), constant(1.0)), "norm_bias": Leaf((d_out,), zeros)}
    else:
        declared |= {f"shared_{name}": leaf for name, leaf in pair(spec.rank, d_in, d_out).items()}
    if spec.trainable_scale:
        declared["shared_scale"] = Leaf((1,), constant(spec.scale))
    own = {}
    for task, rank, scale in zip(spec.tasks, spec.task_ranks, spec.task_scales, strict=True):
        own[task] = pair(rank, d_in, d_out)
        if spec.trainable_task_scales:
            own[task]["scale"] = Leaf((1,), constant(scale))
    return declared | ({TASKS: own} if own else {})


def apply(spec: MTLoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output for the shared stream and every task.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[B, ..., in]`, or `Streams` of it. From an array the task streams are made, if the spec has tasks.
        Without tasks every stream gets the same layer.
      task_id: ignored; every task sees every image.
      dropout_key: a key while training, None otherwise.

    Returns:
      `Streams` of `[B, ..., out]` where the spec has tasks, else what `x` was; in x's dtype.

    Raises:
      ValueError: `x` holds more or fewer task streams than the spec has tasks.
    """
    if not spec.tasks:
        return updated(kernel, bias, *export(spec, leaves, kernel), x, spec.dropout, dropout_key)
    check_tasks(spec.tasks, x)

    first = not isinstance(x, Streams)  # the layer in which task streams begin
    x_shared = x if first else x.shared
    dtype = x_shared.dtype
    base = checkpoint_name(affine(x_shared, kernel, bias), PARTS)
    dropped = dropout(x_shared, spec.dropout, dropout_key)
    a_TxIxR, b_TxRxO = (m.astype(dtype) for m in stacked_pairs(spec, leaves))
    has_shared = spec.mode != "addition"
    if first:
        # All down-projections read the same input: one skinny product.
        T, I, R = a_TxIxR.shape
        a = jnp.moveaxis(a_TxIxR, 0, 1).reshape(I, T * R)
        if has_shared:
            a = jnp.concatenate([a, leaves["shared_A"].astype(dtype)], axis=1)
        u = checkpoint_name(dropped @ a, PARTS)
        u_tasks, u_shared = u[..., : T * R].reshape(*u.shape[:-1], T, R), u[..., T * R :]
        update_tasks = jnp.einsum("...tr,tro->t...o", u_tasks, b_TxRxO)
    else:
        u_shared = checkpoint_name(dropped @ leaves["shared_A"].astype(dtype), PARTS) if has_shared else None
        u_tasks = checkpoint_name(jnp.einsum("t...i,tir->t...r", x.tasks, a_TxIxR), PARTS)
        update_tasks = jnp.einsum("t...r,tro->t...o", u_tasks, b_TxRxO)

    per_task = spec.task_base == "per_task" and not first
    tasks = update_tasks + (affine(x.tasks, kernel, bias) if per_task else base[None])
    if not has_shared:
        norm = _layer_norm(tasks.sum(0), leaves["norm_scale"], leaves["norm_bias"])
        return Streams(base + norm.astype(dtype), tasks)
    b_shared = shared_pair(spec, leaves)[1].astype(dtype)
    shared_update = u_shared @ b_shared
    if spec.mode == "matrixv2":
        own = x.tasks @ leaves["shared_A"].astype(dtype) @ b_shared if per_task else shared_update[None]
        tasks = tasks + own
    return Streams(base + shared_update, tasks)


def stacked_pairs(spec: MTLoRA, leaves) -> tuple[jax.Array, jax.Array]:
    """All tasks' `A [T, in, R]` and scaled `B [T, R, out]`; smaller ranks are padded with zeros, which add nothing."""
    R = max(spec.task_ranks)
    pairs = [task_pair(spec, leaves, task) for task in spec.tasks]
    a = [jnp.pad(A, ((0, 0), (0, R - A.shape[1]))) for A, _ in pairs]
    b = [jnp.pad(B, ((0, R - B.shape[0]), (0, 0))) for _, B in pairs]
    return jnp.stack(a), jnp.stack(b)


def task_pair(spec: MTLoRA, leaves, task: str) -> tuple[jax.Array, jax.Array]:
    """One task's `A [in, R_t]` and `s_t B [R_t, out]`. The scale costs R x out products, not one for every token."""
    own, fixed = leaves[TASKS][task], spec.task_scales[spec.tasks.index(task)]
    return own["A"], own["B"] * own.get("scale", jnp.full((1,), fixed)).reshape(1, 1)


def shared_pair(spec: MTLoRA, leaves) -> tuple[jax.Array, jax.Array]:
    """The shared `A [in, R]` and `s B [R, out]`."""
    scale = leaves.get("shared_scale", jnp.full((1,), spec.scale))
    return leaves["shared_A"], leaves["shared_B"] * scale.reshape(1, 1)


def _layer_norm(x, scale, bias):
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPS)
    return x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)


def export(spec: MTLoRA, leaves, kernel, task: str | None = None):
    """One stream as plain LoRA `(A [in, R], B [R, out])`, scales folded into B.

    Args:
      task: a task's name, or None for the shared stream. Without tasks every stream gets the same update.

    Raises:
      CannotMerge: the stream is not a linear map of its own input (see the module's docstring).
    """
    if task is None or not spec.tasks:
        if spec.mode == "addition":
            raise CannotMerge("in mode addition the shared output holds a LayerNorm of the tasks' sum")
        return shared_pair(spec, leaves)
    if task not in spec.tasks:
        raise CannotMerge(f"the layer has no task {task!r}: its tasks are {', '.join(spec.tasks)}")
    if spec.task_base == "shared":
        raise CannotMerge(
            f"the published output of task {task} adds W of the shared stream to an update of the task's own: "
            'two inputs, no single kernel (task_base="per_task" merges exactly)'
        )
    a, b = task_pair(spec, leaves, task)
    if spec.mode == "matrixv2":
        a_shared, b_shared = shared_pair(spec, leaves)
        a, b = jnp.concatenate([a_shared, a], axis=1), jnp.concatenate([b_shared, b], axis=0)
    return a, b


init, delta, merge = defaults(declare, export)

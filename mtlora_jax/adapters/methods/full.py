"""A full-rank update per task: `y_t = x_t (W + D_t) + b`, while the shared stream keeps `x_s W + b`.

What merged layers of several tasks are, and what bounds every low-rank update from above.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from mtlora_jax.adapters.leaf import TASKS, Leaf, Leaves, zeros
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.spec import CannotMerge, Spec, defaults
from mtlora_jax.adapters.streams import Streams, check_tasks, shared
from mtlora_jax.adapters.task_ids import check_names


@dataclass(frozen=True)
class Full(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      tasks: task names in stream order, at least one.
    """

    method: ClassVar[str] = "full"
    tasks: tuple[str, ...]

    def __post_init__(self):
        check_names("Full", self.tasks)


def declare(spec: Full, d_in: int, d_out: int) -> Leaves:
    """`tasks/<task>/delta [in, out]`, zero."""
    return {TASKS: {task: {"delta": Leaf((d_in, d_out), zeros)} for task in spec.tasks}}


def apply(spec: Full, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output for the shared stream and every task.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[B, ..., in]`, or `Streams` of it. From an array the task streams are made.
      task_id, dropout_key: ignored.

    Returns:
      `Streams` of `[B, ..., out]`, in x's dtype.

    Raises:
      ValueError: `x` holds more or fewer task streams than the spec has tasks.
    """
    check_tasks(spec.tasks, x)
    base = affine(shared(x), kernel, bias)
    kernels = jnp.stack([kernel + leaves[TASKS][task]["delta"] for task in spec.tasks]).astype(base.dtype)
    if isinstance(x, Streams):
        tasks = jnp.einsum("t...i,tio->t...o", x.tasks, kernels)
    else:
        tasks = jnp.einsum("...i,tio->t...o", x, kernels)
    return Streams(base, tasks if bias is None else tasks + jnp.broadcast_to(bias.astype(base.dtype), tasks.shape))


def delta(spec: Full, leaves, kernel, task: str | None = None):
    """`D_t`, `[in, out]`; zeros for the shared stream. Raises `CannotMerge` for a task that the layer lacks."""
    if task is None:
        return jnp.zeros_like(kernel)
    if task not in spec.tasks:
        raise CannotMerge(f"the layer has no task {task!r}: its tasks are {', '.join(spec.tasks)}")
    return leaves[TASKS][task]["delta"]


def export(spec: Full, leaves, kernel, task: str | None = None):
    """`(D_t, identity)`: LoRA of rank `out`, exact and no smaller than the kernel."""
    return delta(spec, leaves, kernel, task), jnp.eye(kernel.shape[1], dtype=kernel.dtype)


init, delta, merge = defaults(declare, export, delta)

"""MTL-LoRA: `y = x W + b + s sum_u p_t[u] (drop(x) A Λ_t) B_u`, p_t = softmax(w_t / τ), for an example of task t.

One down-projection for all tasks, a small transform per task, and several up-projections that each task mixes in its
own way (Yang et al., AAAI 2025, section 3.2; the scale s = alpha / r is in their code, not in the formula).

No up-projection is gathered per example: the mixture weighs the rank-space vector, and one product with the stacked
up-projections `[U R, out]` does the rest.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import TASKS, Leaf, Leaves, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.spec import Spec, defaults
from mtlora_jax.adapters.task_ids import check_names, check_task_id, id_of, own_uniform, pick, stacked


@dataclass(frozen=True)
class MTLLoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      tasks: names in the order of task ids, at least one.
      rank: R, at least 1.
      scale: s, a plain multiplier; `alpha / rank` as published.
      up_projections: U, at least 1.
      temperature: τ, above 0; near 0 a task takes one up-projection, large it takes their mean.
      diagonal: task transforms are diagonal.
      dropout: probability of dropping an entry of the update's input while training.
    """

    method: ClassVar[str] = "mtl_lora"
    takes_streams: ClassVar[bool] = False
    needs_task_id: ClassVar[bool] = True
    tasks: tuple[str, ...]
    rank: int = 8
    scale: float = 2.0
    up_projections: int = 3
    temperature: float = 0.1
    diagonal: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        check_names("MTL-LoRA", self.tasks)
        if self.rank < 1 or self.up_projections < 1:
            raise ValueError(
                f"MTL-LoRA needs rank and up_projections of at least 1, not {self.rank} and {self.up_projections}"
            )
        if not self.temperature > 0:
            raise ValueError(f"MTL-LoRA's temperature must be above 0, not {self.temperature}: it divides the logits")
        check_dropout(self.dropout)


def declare(spec: MTLLoRA, d_in: int, d_out: int) -> Leaves:
    """`A [in, R]`, `B [U, R, out]`, and per task `tasks/<task>/transform [R, R]` (or `[R]`) and `tasks/<task>/mix [U]`.

    Transforms start as the identity, B at zero. The mixing logits are random: equal ones would keep all
    up-projections equal for ever.
    """
    R, U = spec.rank, spec.up_projections
    shared = {"A": Leaf((d_in, R), fan_in_uniform), "B": Leaf((U, R, d_out), zeros)}
    own = {
        "transform": Leaf((R,), jax.nn.initializers.ones) if spec.diagonal else Leaf((R, R), identity),
        "mix": Leaf((U,), own_uniform),
    }
    return shared | {TASKS: dict.fromkeys(spec.tasks, own)}


def identity(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    return jnp.eye(shape[0], dtype=dtype)


def mixture(spec: MTLLoRA, leaves) -> jax.Array:
    """`p [T, U]`, each task's share of every up-projection; a float32 softmax."""
    return jax.nn.softmax(stacked(spec.tasks, leaves, "mix").astype(jnp.float32) / spec.temperature, axis=-1)


def transformed(spec: MTLLoRA, leaves, x, task_id, dropout_key=None) -> jax.Array:
    """`drop(x) A Λ_t`, `[B, ..., R]`: what the authors plot tasks by, after the task's transform."""
    u = dropout(x, spec.dropout, dropout_key) @ leaves["A"].astype(x.dtype)
    transforms = stacked(spec.tasks, leaves, "transform").astype(x.dtype)
    if spec.diagonal:
        return u * pick(transforms, task_id, u.ndim)
    if jnp.ndim(task_id) == 1:
        return jnp.einsum("b...r,brq->b...q", u, pick(transforms, task_id))
    # An id for every token: one product with all tasks' transforms costs less than a gather of [B, L, R, R].
    every = jnp.einsum("...r,trq->...tq", u, transforms)
    chosen = pick(jnp.eye(len(spec.tasks), dtype=x.dtype), task_id, u.ndim)
    return jnp.einsum("...tq,...t->...q", every, chosen)


def update(spec: MTLLoRA, leaves, x, task_id, dropout_key=None) -> jax.Array:
    """`sum_u p_t[u] (drop(x) A Λ_t) B_u`, `[B, ..., out]`: the update before its scale."""
    z = transformed(spec, leaves, x, task_id, dropout_key)
    p = pick(mixture(spec, leaves).astype(x.dtype), task_id, z.ndim)
    weighted = p[..., None] * z[..., None, :]
    B = leaves["B"].astype(x.dtype)
    return weighted.reshape(*z.shape[:-1], -1) @ B.reshape(-1, B.shape[-1])


def apply(spec: MTLLoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[B, ..., in]`.
      task_id: `[B]`, or `[B, L]` where x is `[B, L, in]`; indexes `spec.tasks`. An id out of range gives NaN.
      dropout_key: a key while training, None otherwise.

    Returns:
      `[B, ..., out]`, in x's dtype.

    Raises:
      ValueError: there are no task ids, or they are not of x's leading axes.
    """
    check_task_id("MTL-LoRA", task_id, x)
    return affine(x, kernel, bias) + spec.scale * update(spec, leaves, x, task_id, dropout_key)


def export(spec: MTLLoRA, leaves, kernel, task: str | None = None):
    """`(A, s Λ_t sum_u p_t[u] B_u)`: one task is a plain LoRA of the same rank."""
    t = id_of("MTL-LoRA", spec.tasks, task)
    p = mixture(spec, leaves)[t].astype(leaves["B"].dtype)
    B = jnp.einsum("u,uro->ro", p, leaves["B"])
    transform = leaves[TASKS][task]["transform"]
    return leaves["A"], spec.scale * (transform[:, None] * B if spec.diagonal else transform @ B)


init, delta, merge = defaults(declare, export)

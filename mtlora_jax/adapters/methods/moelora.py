"""MoELoRA: `y = x W + b + s sum_e q_t[e] (drop(x) A_e) B_e`, q_t = softmax(G e_t) (Liu et al., SIGIR 2024, 3.3).

Low-rank experts, mixed by a gate that sees an embedding of the example's task.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import TASKS, Leaf, Leaves, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.spec import Spec, defaults
from mtlora_jax.adapters.task_ids import check_names, check_task_id, id_of, pick, stacked

A_STDDEV = 0.01


@dataclass(frozen=True)
class MoELoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      tasks: names in the order of task ids, at least one.
      rank: R of all experts together.
      experts: E; divides the rank.
      embedding: width of a task's embedding.
      scale: s, a plain multiplier; published as alpha / rank with the rank of all experts.
      dropout: probability of dropping an entry of an expert's input while training, each expert for itself.
    """

    method: ClassVar[str] = "moelora"
    takes_streams: ClassVar[bool] = False
    needs_task_id: ClassVar[bool] = True
    tasks: tuple[str, ...]
    rank: int = 16
    experts: int = 8
    embedding: int = 64
    scale: float = 2.0
    dropout: float = 0.0

    def __post_init__(self):
        check_names("MoELoRA", self.tasks)
        if min(self.rank, self.experts, self.embedding) < 1:
            raise ValueError(
                "MoELoRA needs rank, experts and embedding of at least 1, not "
                f"{self.rank}, {self.experts} and {self.embedding}"
            )
        if self.rank % self.experts:
            raise ValueError(
                f"MoELoRA shares its rank among its experts: {self.experts} experts do not divide rank {self.rank}"
            )
        check_dropout(self.dropout)


def declare(spec: MoELoRA, d_in: int, d_out: int) -> Leaves:
    """`A [E, in, R/E]`, `B [E, R/E, out]`, `gate [te, E]` and `tasks/<task>/embedding [te]`.

    `spare_embedding [te]` belongs to no task: the reference's table has a row too many, and published counts have it.
    """
    E, r = spec.experts, spec.rank // spec.experts
    normal = jax.nn.initializers.normal
    return {
        "A": Leaf((E, d_in, r), normal(A_STDDEV)),
        "B": Leaf((E, r, d_out), zeros),
        "gate": Leaf((spec.embedding, E), fan_in_uniform),
        "spare_embedding": Leaf((spec.embedding,), normal(1.0)),
        TASKS: {task: {"embedding": Leaf((spec.embedding,), normal(1.0))} for task in spec.tasks},
    }


def gates(spec: MoELoRA, leaves) -> jax.Array:
    """`q [T, E]`, each task's share of every expert; a float32 softmax."""
    embeddings = stacked(spec.tasks, leaves, "embedding")
    return jax.nn.softmax((embeddings @ leaves["gate"]).astype(jnp.float32), axis=-1)


def apply(spec: MoELoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
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
    check_task_id("MoELoRA", task_id, x)
    A, B = leaves["A"].astype(x.dtype), leaves["B"].astype(x.dtype)
    if dropout_key is None or spec.dropout == 0:
        u = jnp.einsum("...i,eir->...er", x, A)
    else:
        keys = jax.random.split(dropout_key, spec.experts)
        u = jnp.stack([dropout(x, spec.dropout, keys[e]) @ A[e] for e in range(spec.experts)], axis=-2)
    q = pick(gates(spec, leaves).astype(x.dtype), task_id, x.ndim)
    mixed = (u * q[..., None]).reshape(*x.shape[:-1], -1)
    return affine(x, kernel, bias) + spec.scale * (mixed @ B.reshape(-1, B.shape[-1]))


def export(spec: MoELoRA, leaves, kernel, task: str | None = None):
    """`(A_1 | ... | A_E, s q_t[1] B_1 over ... over s q_t[E] B_E)`: one task is a plain LoRA of rank R."""
    t = id_of("MoELoRA", spec.tasks, task)
    q = gates(spec, leaves)[t].astype(leaves["B"].dtype)
    mixed = spec.scale * q[:, None, None] * leaves["B"]
    return jnp.concatenate(list(leaves["A"]), axis=1), mixed.reshape(-1, mixed.shape[-1])


init, delta, merge = defaults(declare, export)

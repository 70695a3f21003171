"""MultiLoRA: `y = x W + b + s sum_u c_u (drop(x) A_u) B_u` (Wang et al., 2023, equation 4).

Several parallel updates, each with a learned scale for every output.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout
from mtlora_jax.adapters.leaf import Leaf, Leaves, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import updated
from mtlora_jax.adapters.spec import Spec, defaults


@dataclass(frozen=True)
class MultiLoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      rank: R of each update, at least 1.
      scale: s, a plain multiplier.
      updates: U, at least 1.
      dropout: probability of dropping an entry of the updates' input while training.
    """

    method: ClassVar[str] = "multilora"
    rank: int = 8
    scale: float = 2.0
    updates: int = 3
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1 or self.updates < 1:
            raise ValueError(f"MultiLoRA needs rank and updates of at least 1, not {self.rank} and {self.updates}")
        check_dropout(self.dropout)


def declare(spec: MultiLoRA, d_in: int, d_out: int) -> Leaves:
    """`A [U, in, R]` and `B [U, R, out]` random, `scaling [U, out]` zero."""
    U, R = spec.updates, spec.rank
    return {
        "A": Leaf((U, d_in, R), fan_in_uniform),
        "B": Leaf((U, R, d_out), fan_in_uniform),
        "scaling": Leaf((U, d_out), zeros),
    }


def apply(spec: MultiLoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output, all updates as one of rank U R.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[..., in]`, or `Streams` of it.
      task_id: ignored; all tasks share the updates.
      dropout_key: a key while training, None otherwise.

    Returns:
      `[..., out]`, or `Streams` of it, in x's dtype.
    """
    return updated(kernel, bias, *export(spec, leaves, kernel), x, spec.dropout, dropout_key)


def export(spec: MultiLoRA, leaves, kernel, task=None):
    """`(A_1 | ... | A_U, s c_1 B_1 over ... over s c_U B_U)`: a plain LoRA of rank U R."""
    scaled = spec.scale * leaves["scaling"][:, None] * leaves["B"]
    return jnp.concatenate(list(leaves["A"]), axis=1), scaled.reshape(-1, scaled.shape[-1])


init, delta, merge = defaults(declare, export)

"""LoRA: `y = x W + b + s (drop(x) A) B` (Hu et al., ICLR 2022, equation 3).

>>> import jax, jax.numpy as jnp
>>> from mtlora_jax.adapters import LoRA, lora
>>> spec, kernel, x = LoRA(rank=2, scale=0.5), jnp.ones((8, 4)), jnp.ones((3, 8))
>>> leaves = lora.init(spec, jax.random.key(0), 8, 4)
>>> loss = lambda leaves: lora.apply(spec, leaves, kernel, None, x).sum()
>>> {name: g.shape for name, g in jax.grad(loss)(leaves).items()}
{'A': (8, 2), 'B': (2, 4)}
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import Leaf, Leaves, fan_in_uniform, zeros
from mtlora_jax.adapters.spec import Spec, defaults
from mtlora_jax.adapters.streams import each_stream


@dataclass(frozen=True)
class LoRA(Spec):
    """One low-rank update for every example.

    Attributes:
      rank: R, at least 1.
      scale: s, a plain multiplier. For the customary `alpha / rank`, write that quotient.
      dropout: probability of dropping an entry of the update's input while training; the base sees all of it.
    """

    method: ClassVar[str] = "lora"
    rank: int = 8
    scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"LoRA needs a rank of at least 1, not {self.rank}")
        check_dropout(self.dropout)


def declare(spec: LoRA, d_in: int, d_out: int) -> Leaves:
    """`A [in, R]` drawn uniformly within 1/sqrt(in), `B [R, out]` zero: a fresh adapter changes nothing."""
    return pair(spec.rank, d_in, d_out)


def pair(rank: int, d_in: int, d_out: int) -> Leaves:
    """One low-rank update's two leaves, `A` and `B`."""
    return {"A": Leaf((d_in, rank), fan_in_uniform), "B": Leaf((rank, d_out), zeros)}


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`x W + b` over the last axis, in x's dtype."""
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


def updated(kernel, bias, a, b, x, rate: float, key: jax.Array | None):
    """`x W + b + (drop(x) A) B` of an array, or of every stream with a mask of its own."""

    def one(x: jax.Array, key: jax.Array | None) -> jax.Array:
        return affine(x, kernel, bias) + dropout(x, rate, key) @ a.astype(x.dtype) @ b.astype(x.dtype)

    return each_stream(one, x, key)


def apply(spec: LoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[..., in]`, or `Streams` of it.
      task_id: ignored; all tasks share the update.
      dropout_key: a key while training, None otherwise.

    Returns:
      `[..., out]`, or `Streams` of it, in x's dtype.
    """
    return updated(kernel, bias, *export(spec, leaves, kernel), x, spec.dropout, dropout_key)


def export(spec: LoRA, leaves, kernel, task=None):
    """`(A, s B)`: the scale goes into B, so that the product alone is the update."""
    return leaves["A"], spec.scale * leaves["B"]


init, delta, merge = defaults(declare, export)

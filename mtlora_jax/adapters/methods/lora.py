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

from mtlora_jax.adapters.leaf import Leaf, draw, fan_in_uniform, zeros
from mtlora_jax.adapters.spec import Spec
from mtlora_jax.adapters.streams import Streams


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


def check_dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"adapter dropout must lie in [0, 1), not {rate}")


def leaves(spec: LoRA, d_in: int, d_out: int) -> dict[str, Leaf]:
    """`A [in, R]` drawn uniformly within 1/sqrt(in), `B [R, out]` zero: a fresh adapter changes nothing."""
    return pair("", spec.rank, d_in, d_out)


def pair(prefix: str, rank: int, d_in: int, d_out: int) -> dict[str, Leaf]:
    """One low-rank update's two leaves, `<prefix>A` and `<prefix>B`."""
    return {f"{prefix}A": Leaf((d_in, rank), fan_in_uniform), f"{prefix}B": Leaf((rank, d_out), zeros)}


def init(spec: LoRA, key: jax.Array, d_in: int, d_out: int) -> dict[str, jax.Array]:
    """Fresh leaves, float32, each from a key of its own."""
    return draw(leaves(spec, d_in, d_out), key)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`x W + b` over the last axis, in x's dtype."""
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


def updated(kernel, bias, a, b, x, rate: float, key: jax.Array | None):
    """`x W + b + (drop(x) A) B`; of `Streams`, the same of each, with masks of their own."""
    if isinstance(x, Streams):
        keys = (None, None) if key is None else jax.random.split(key)
        return Streams(
            updated(kernel, bias, a, b, x.shared, rate, keys[0]),
            updated(kernel, bias, a, b, x.tasks, rate, keys[1]),
        )
    return affine(x, kernel, bias) + dropout(x, rate, key) @ a.astype(x.dtype) @ b.astype(x.dtype)


def apply(spec: LoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output.

    Args:
      leaves: `A`, `B`.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[..., in]`, or `Streams` of it.
      task_id: ignored, LoRA knows no tasks.
      dropout_key: a key while training, None otherwise.

    Returns:
      `[..., out]`, or `Streams` of it, in x's dtype.
    """
    return updated(kernel, bias, *export(spec, leaves, kernel), x, spec.dropout, dropout_key)


def delta(spec: LoRA, leaves, kernel, task=None):
    """`s A B`, `[in, out]`."""
    return spec.scale * (leaves["A"] @ leaves["B"])


def merge(spec: LoRA, leaves, kernel, bias, task=None):
    """The plain layer `(W + s A B, b)`."""
    return kernel + delta(spec, leaves, kernel, task).astype(kernel.dtype), bias


def export(spec: LoRA, leaves, kernel, task=None):
    """`(A, s B)`: the scale goes into B, so that the product alone is the update."""
    return leaves["A"], spec.scale * leaves["B"]

"""HydraLoRA: `y = x W + b + s sum_u ρ_u(x) (drop(x) A) B_u`, ρ = softmax(x G) (Tian et al., NeurIPS 2024, equation 4).

One down-projection, several up-projections, and a router that mixes them anew for every token.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import Leaf, Leaves, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.spec import CannotMerge, Spec, defaults
from mtlora_jax.adapters.streams import each_stream


@dataclass(frozen=True)
class HydraLoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      rank: R, at least 1.
      experts: U up-projections, at least 1.
      scale: s, a plain multiplier.
      dropout: probability of dropping an entry of the update's input while training; the router sees all of it.
    """

    method: ClassVar[str] = "hydralora"
    rank: int = 8
    experts: int = 3
    scale: float = 2.0
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1 or self.experts < 1:
            raise ValueError(f"HydraLoRA needs rank and experts of at least 1, not {self.rank} and {self.experts}")
        check_dropout(self.dropout)


def declare(spec: HydraLoRA, d_in: int, d_out: int) -> Leaves:
    """`A [in, R]` and `route [in, U]` random, `B [U, R, out]` zero."""
    R, U = spec.rank, spec.experts
    return {
        "A": Leaf((d_in, R), fan_in_uniform),
        "B": Leaf((U, R, d_out), zeros),
        "route": Leaf((d_in, U), fan_in_uniform),
    }


def routes(leaves, x) -> jax.Array:
    """`ρ [..., U]`, every token's share of every up-projection; a float32 softmax."""
    return jax.nn.softmax(x.astype(jnp.float32) @ leaves["route"].astype(jnp.float32), axis=-1)


def apply(spec: HydraLoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None.
      x: `[..., in]`, or `Streams` of it.
      task_id: ignored; the router sees tokens.
      dropout_key: a key while training, None otherwise.

    Returns:
      `[..., out]`, or `Streams` of it, in x's dtype.
    """

    def one(x: jax.Array, key: jax.Array | None) -> jax.Array:
        u = dropout(x, spec.dropout, key) @ leaves["A"].astype(x.dtype)
        mixed = routes(leaves, x).astype(x.dtype)[..., None] * u[..., None, :]
        B = leaves["B"].astype(x.dtype)
        update = mixed.reshape(*x.shape[:-1], -1) @ B.reshape(-1, B.shape[-1])
        return affine(x, kernel, bias) + spec.scale * update

    return each_stream(one, x, dropout_key)


def export(spec: HydraLoRA, leaves, kernel, task=None):
    """Raises `CannotMerge`: the update depends on the token."""
    raise CannotMerge("HydraLoRA routes every token anew: its update is not a change of the kernel")


init, delta, merge = defaults(declare, export)

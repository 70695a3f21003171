"""DoRA: `y = g (x V) + b`, V = W + s A B, g = m / |V| a column (Liu et al., ICML 2024, equation 5).

Direction and magnitude of every output column are trained apart. The leaf holds how far m is from the kernel's own
column norms, so that a fresh adapter needs no kernel to be drawn and follows whatever base is loaded.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout, dropout
from mtlora_jax.adapters.leaf import Leaf, Leaves, zeros
from mtlora_jax.adapters.methods.lora import pair
from mtlora_jax.adapters.spec import CannotMerge, Spec, defaults
from mtlora_jax.adapters.streams import each_stream


@dataclass(frozen=True)
class DoRA(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      rank: R, at least 1; 0 trains magnitudes alone.
      scale: s, a plain multiplier.
      simple: the norm counts as a constant in the backward pass, as the paper's section 4.3 proposes; else it is
        differentiated.
      dropout: probability of dropping an entry of the update's input while training.
    """

    method: ClassVar[str] = "dora"
    rank: int = 8
    scale: float = 2.0
    simple: bool = True
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"DoRA needs a rank of at least 0, not {self.rank}")
        check_dropout(self.dropout)


def declare(spec: DoRA, d_in: int, d_out: int) -> Leaves:
    """`A [in, R]`, `B [R, out]` as in LoRA (none at rank 0), and `magnitude [out]`, m - |W|, zero."""
    low_rank = pair(spec.rank, d_in, d_out) if spec.rank else {}
    return low_rank | {"magnitude": Leaf((d_out,), zeros)}


def magnitude(leaves, kernel) -> jax.Array:
    """m `[out]`, float32."""
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=0) + leaves["magnitude"]


def gain(spec: DoRA, leaves, kernel) -> jax.Array:
    """g = m / |W + s A B| `[out]`, float32; the sum is never formed."""
    W = kernel.astype(jnp.float32)
    squared = jnp.square(W).sum(0)
    if spec.rank:
        A, B = leaves["A"], spec.scale * leaves["B"]
        squared = squared + ((2 * (A.T @ W) + A.T @ A @ B) * B).sum(0)
    # A column of zeros points nowhere: it stays zero, and the leaves' derivatives finite.
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1))
    return magnitude(leaves, kernel) / (jax.lax.stop_gradient(norm) if spec.simple else norm)


def apply(spec: DoRA, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output.

    Args:
      leaves: as `declare` says.
      kernel: `[in, out]`.
      bias: `[out]` or None; it is not scaled.
      x: `[..., in]`, or `Streams` of it.
      task_id: ignored; all tasks share the update.
      dropout_key: a key while training, None otherwise. The frozen product sees dropped inputs in the part that the
        gain adds to it, and nowhere else.

    Returns:
      `[..., out]`, or `Streams` of it, in x's dtype.
    """
    g32 = gain(spec, leaves, kernel)

    def one(x: jax.Array, key: jax.Array | None) -> jax.Array:
        dropped = dropout(x, spec.dropout, key)

        def frozen(x: jax.Array) -> jax.Array:
            return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)

        # Summed in float32 and rounded once: in half precision a gain within 0.4% of 1 would change nothing.
        base = frozen(x)
        scaled = base if dropped is x else frozen(dropped)
        y = base + (g32 - 1).reshape(*(1,) * (x.ndim - 1), -1) * scaled
        if spec.rank:
            u = dropped @ leaves["A"].astype(x.dtype)
            up = (spec.scale * g32[None] * leaves["B"]).astype(x.dtype)
            y += jnp.matmul(u, up, preferred_element_type=jnp.float32)
        if bias is not None:
            y += jnp.broadcast_to(bias.astype(jnp.float32), y.shape)
        return y.astype(x.dtype)

    return each_stream(one, x, dropout_key)


def delta(spec: DoRA, leaves, kernel, task=None):
    """`g (W + s A B) - W`, `[in, out]`."""
    V = kernel + spec.scale * (leaves["A"] @ leaves["B"]) if spec.rank else kernel
    return gain(spec, leaves, kernel)[None] * V - kernel


def export(spec: DoRA, leaves, kernel, task=None):
    """Raises `CannotMerge`: scaling whole columns is not a low-rank change."""
    raise CannotMerge("DoRA rescales whole columns of the kernel, which no low-rank pair does; export it as DoRA")


init, delta, merge = defaults(declare, export, delta)

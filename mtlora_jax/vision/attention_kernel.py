"""Window attention in one kernel for NVIDIA GPUs: no logits, weights, windows or shifted images in memory.

A program reads q, k and v of one head and one window at a time, straight from the image, and writes them there. Its
backward pass computes the weights again. Written with Pallas, for its Triton compiler.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mtlora_jax.vision.windows import MASKED, Windows, part

TILE = 64
"""Tokens that a program holds: those of a window and padding."""
PROGRAMS = 2048
"""About how many programs share the windows: they fill a GPU several times, and each adds up the gradient of the bias
for its own windows."""
NOTHING = -1e30
"""The logit of padding."""


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def attend(qkv: jax.Array, bias: jax.Array, windows: Windows, interpret: bool = False) -> jax.Array:
    """Attention inside windows of at most `TILE` tokens.

    Args:
      qkv: `[B, S, S, 3, K, D]`, heads of 16, 32 or 64.
      bias: `[K, N, N]`, added to the logits of each window.
      interpret: run without a GPU, slowly.

    Returns:
      `[B, S, S, K D]`.
    """
    return _forward(qkv, bias, windows, interpret)[0]


def _forward(qkv, bias, windows, interpret):
    B, S, _, _, K, D = qkv.shape
    each, programs = _share(qkv, windows)
    out = pl.pallas_call(
        partial(_forward_kernel, shape=qkv.shape, windows=windows, each=each),
        grid=(programs, K),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY), _of_head()],
        out_specs=pl.BlockSpec(memory_space=pl.ANY),
        out_shape=jax.ShapeDtypeStruct((B * S * S * K * D,), qkv.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        cost_estimate=_cost(qkv, windows, products=2),
        name="window_attention",
    )(qkv.reshape(-1), _padded(bias))
    return out.reshape(B, S, S, K * D), (qkv, bias)


def _backward(windows, interpret, kept, cotangent):
    qkv, bias = kept
    K, N = bias.shape[:2]
    each, programs = _share(qkv, windows)
    d_qkv, d_bias = pl.pallas_call(
        partial(_backward_kernel, shape=qkv.shape, windows=windows, each=each),
        grid=(programs, K),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY), _of_head(), pl.BlockSpec(memory_space=pl.ANY)],
        out_specs=[
            pl.BlockSpec(memory_space=pl.ANY),
            pl.BlockSpec((None, None, TILE, TILE), lambda program, head: (program, head, 0, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((qkv.size,), qkv.dtype),
            jax.ShapeDtypeStruct((programs, K, TILE, TILE), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        cost_estimate=_cost(qkv, windows, products=5),
        name="window_attention_backward",
    )(qkv.reshape(-1), _padded(bias), cotangent.reshape(-1))
    return d_qkv.reshape(qkv.shape), d_bias.sum(0)[:, :N, :N].astype(bias.dtype)


attend.defvjp(_forward, _backward)


def _count(shape: tuple[int, ...], windows: Windows) -> int:
    """Windows of all images."""
    return shape[0] * (shape[1] // windows.side) ** 2


def _share(qkv: jax.Array, windows: Windows) -> tuple[int, int]:
    """Windows of a program, and how many programs there are for a head."""
    count = _count(qkv.shape, windows)
    each = pl.cdiv(count * qkv.shape[4], PROGRAMS)
    return each, pl.cdiv(count, each)


def _padded(bias: jax.Array) -> jax.Array:
    """`[K, TILE, TILE]`, with logits for padding that softmax turns into 0."""
    K, N, _ = bias.shape
    whole = jnp.full((K, TILE, TILE), NOTHING, jnp.float32)
    return whole.at[:, :N, :N].set(bias.astype(jnp.float32))


def _of_head() -> pl.BlockSpec:
    return pl.BlockSpec((None, TILE, TILE), lambda program, head: (head, 0, 0))


def _cost(qkv: jax.Array, windows: Windows, products: int) -> pl.CostEstimate:
    B, S, _, _, K, D = qkv.shape
    flops = 2 * products * B * S * S * windows.side**2 * K * D
    moved = (products + 1) * B * S * S * K * D * qkv.dtype.itemsize
    return pl.CostEstimate(flops=flops, transcendentals=B * S * S * windows.side**2 * K, bytes_accessed=moved)


def _place(window: jax.Array, shape: tuple[int, ...], windows: Windows) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a window's tokens: their place among all tokens, beyond the last for padding; which are no padding; and their
    part of the image."""
    images, size = shape[:2]
    row = size // windows.side
    image, at = window // (row * row), window % (row * row)
    token = jnp.arange(TILE, dtype=jnp.int32)
    y = at // row * windows.side + token // windows.side
    x = at % row * windows.side + token % windows.side
    is_token = token < windows.side**2
    place = (image * size + (y + windows.shift) % size) * size + (x + windows.shift) % size
    beyond = images * size * size
    return jnp.where(is_token, place, beyond), is_token, part(y, x, size, windows.side, windows.shift)


class _Window:
    """One head of one window: where its rows are in flat arrays, and its attention weights.

    Args:
      of: flat q, k and v.
      bias: `[TILE, TILE]`.
    """

    def __init__(self, of, bias, window, head, shape, windows: Windows):
        K, D = shape[4:]
        place, is_token, own = _place(window, shape, windows)
        self.columns = head * D + jnp.arange(D, dtype=jnp.int32)
        self.place, self.width, self.mask = place, K * D, jnp.broadcast_to(is_token[:, None], (TILE, D))
        self.q, self.k, self.v = (self.read(of, which, 3) for which in range(3))
        logits = triton.dot(self.q, self.k, trans_b=True) * windows.scale + bias
        if windows.shift:
            logits = logits + jnp.where(own[:, None] == own[None, :], 0.0, MASKED)
        weights = jnp.exp(logits - logits.max(1, keepdims=True))
        self.weights = weights / weights.sum(1, keepdims=True)

    def at(self, which: int, of: int) -> jax.Array:
        """Indices `[TILE, D]` of one of several vectors of each token."""
        return (self.place * (of * self.width) + which * self.width)[:, None] + self.columns[None, :]

    def read(self, ref, which: int = 0, of: int = 1) -> jax.Array:
        return triton.load(ref.at[self.at(which, of)], mask=self.mask, other=0.0)

    def write(self, ref, values: jax.Array, which: int = 0, of: int = 1) -> None:
        triton.store(ref.at[self.at(which, of)], values.astype(ref.dtype), mask=self.mask)


def _own_windows(shape, windows: Windows, each: int) -> tuple[jax.Array, jax.Array]:
    first = pl.program_id(0) * each
    return first, jnp.minimum(first + each, _count(shape, windows))


def _forward_kernel(qkv, bias, out, *, shape, windows: Windows, each: int):
    bias, head = bias[...], pl.program_id(1)

    def one(window, _):
        w = _Window(qkv, bias, window, head, shape, windows)
        w.write(out, triton.dot(w.weights.astype(w.v.dtype), w.v))

    jax.lax.fori_loop(*_own_windows(shape, windows, each), one, None)


def _backward_kernel(qkv, bias, cotangent, d_qkv, d_bias, *, shape, windows: Windows, each: int):
    bias, head = bias[...], pl.program_id(1)

    def one(window, total):
        w = _Window(qkv, bias, window, head, shape, windows)
        d_out = w.read(cotangent)
        d_weights = triton.dot(d_out, w.v, trans_b=True)
        d_logits = w.weights * (d_weights - (w.weights * d_weights).sum(1, keepdims=True))
        half = d_logits.astype(w.q.dtype)
        w.write(d_qkv, triton.dot(half, w.k) * windows.scale, 0, 3)
        w.write(d_qkv, triton.dot(half, w.q, trans_a=True) * windows.scale, 1, 3)
        w.write(d_qkv, triton.dot(w.weights.astype(d_out.dtype), d_out, trans_a=True), 2, 3)
        return total + d_logits

    d_bias[...] = jax.lax.fori_loop(*_own_windows(shape, windows, each), one, jnp.zeros((TILE, TILE), jnp.float32))

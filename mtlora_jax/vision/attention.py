"""Attention inside windows, as the platform takes it."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mtlora_jax.devices import BATCH_AXES, LANES, on_nvidia, on_tpu, traced
from mtlora_jax.vision.windows import Windows, from_windows, shift_mask, to_windows


def attend(qkv: jax.Array, bias: jax.Array, windows: Windows) -> jax.Array:
    """Softmax attention of every token to those of its window, the softmax in float32.

    In half precision on an NVIDIA GPU by one kernel, which is differentiated in reverse alone; a mesh's devices each
    run it on their own images. On a TPU by products of several heads at once.

    Args:
      qkv: `[B, S, S, 3, K, D]`.
      bias: `[K, N, N]`, added to the logits of each window.

    Returns:
      `[B, S, S, K D]`.
    """
    if on_tpu():
        return in_lanes(qkv, bias, windows)
    if not (on_nvidia() and has_kernel(qkv, windows)):
        return plain(qkv, bias, windows)
    # Imported where needed: it takes a second.
    from mtlora_jax.vision import attention_kernel

    mesh = traced()
    kernel = partial(attention_kernel.attend, windows=windows)
    return kernel(qkv, bias) if mesh is None else on_each_device(kernel, mesh)(qkv, bias)


def plain(qkv: jax.Array, bias: jax.Array, windows: Windows) -> jax.Array:
    """`attend`, by matrix products."""
    S, K, D = qkv.shape[2], *qkv.shape[-2:]
    x = _cut(qkv, windows)
    q, k, v = jnp.moveaxis(x.reshape(*x.shape[:-1], 3, K, D), 3, 0)
    logits = jnp.einsum("bwnkd,bwmkd->bwknm", q * windows.scale, k)
    x = jnp.einsum("bwknm,bwmkd->bwnkd", _weights(logits, bias, windows, S), v)
    return _joined(x.reshape(*x.shape[:3], K * D), windows, S)


def in_lanes(qkv: jax.Array, bias: jax.Array, windows: Windows) -> jax.Array:
    """`attend`, by products over the channels of several heads, which multiply each head's query by zeros in those of
    the others.

    A TPU lays out the last axis of an array in lanes of 128, and its matrix unit sums over as many: a head's 32
    channels take the room and the time of four heads'.
    """
    B, S, _, _, K, D = qkv.shape
    heads = max(n for n in range(1, max(LANES // D, 1) + 1) if K % n == 0)
    x = _cut(qkv, windows)
    x = x.reshape(*x.shape[:3], -1, heads * D).swapaxes(2, 3)
    q, k, v = jnp.split(x, 3, axis=2)
    _, W, G, N, C = q.shape
    own = jnp.repeat(jnp.eye(heads, dtype=x.dtype), D, axis=1)[None, None, None, :, None]  # [1, 1, 1, heads, 1, C]
    logits = jnp.einsum("bwgnc,bwgmc->bwgnm", ((q * windows.scale)[:, :, :, None] * own).reshape(B, W, G, -1, C), k)
    weights = _weights(logits.reshape(B, W, K, N, N), bias, windows, S)
    x = jnp.einsum("bwgnm,bwgmc->bwgnc", weights.reshape(B, W, G, -1, N), v)
    x = (x.reshape(B, W, G, heads, N, C) * own).sum(3)
    return _joined(x.swapaxes(2, 3).reshape(B, W, N, K * D), windows, S)


def _cut(qkv: jax.Array, windows: Windows) -> jax.Array:
    """`[B, S, S, 3, K, D]` to `[B, windows, N, 3 K D]`."""
    x, shift = qkv.reshape(*qkv.shape[:3], -1), windows.shift
    return to_windows(jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x, windows.side)


def _weights(logits: jax.Array, bias: jax.Array, windows: Windows, grid: int) -> jax.Array:
    """The softmax of `[B, windows, K, N, N]`, in float32, in the dtype of the logits."""
    biased = logits.astype(jnp.float32) + bias[None, None]
    if windows.shift:
        biased = biased + shift_mask(grid, windows.side, windows.shift)[None, :, None]
    return jax.nn.softmax(biased).astype(logits.dtype)


def _joined(x: jax.Array, windows: Windows, grid: int) -> jax.Array:
    """`[B, windows, N, C]` to `[B, S, S, C]`."""
    x, shift = from_windows(x, windows.side, grid), windows.shift
    return jnp.roll(x, (shift, shift), axis=(1, 2)) if shift else x


def has_kernel(qkv: jax.Array, windows: Windows) -> bool:
    """Whether there is a kernel for such windows: half precision, heads of 16, 32 or 64, at most 64 tokens, and fewer
    numbers than 32 bits can count."""
    half, D = qkv.dtype in (jnp.bfloat16, jnp.float16), qkv.shape[-1]
    return half and D in (16, 32, 64) and windows.side <= 8 and math.prod(qkv.shape) < 2**31


def on_each_device(kernel: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """`kernel(qkv, bias)` over a batch that a mesh cuts."""
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(kernel, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False)

"""Attention inside windows, as the platform takes it."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mtlora_jax.devices import on_nvidia
from mtlora_jax.engine.mesh import BATCH_AXES, traced
from mtlora_jax.vision.windows import Windows, from_windows, shift_mask, to_windows


def attend(qkv: jax.Array, bias: jax.Array, windows: Windows) -> jax.Array:
    """Softmax attention of every token to those of its window, the softmax in float32.

    In half precision on an NVIDIA GPU by one kernel, which is differentiated in reverse alone; a mesh's devices each
    run it on their own images.

    Args:
      qkv: `[B, S, S, 3, K, D]`.
      bias: `[K, N, N]`, added to the logits of each window.

    Returns:
      `[B, S, S, K D]`.
    """
    if not (on_nvidia() and has_kernel(qkv, windows)):
        return plain(qkv, bias, windows)
    # Imported where needed: it takes a second.
    from mtlora_jax.vision import attention_kernel

    mesh = traced()
    kernel = partial(attention_kernel.attend, windows=windows)
    return kernel(qkv, bias) if mesh is None else on_each_device(kernel, mesh)(qkv, bias)


def plain(qkv: jax.Array, bias: jax.Array, windows: Windows) -> jax.Array:
    """`attend`, by matrix products."""
    B, S, _, _, K, D = qkv.shape
    side, shift = windows.side, windows.shift
    x = qkv.reshape(B, S, S, -1)
    x = to_windows(jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x, side)
    q, k, v = jnp.moveaxis(x.reshape(*x.shape[:-1], 3, K, D), 3, 0)
    logits = jnp.einsum("bwnkd,bwmkd->bwknm", q * windows.scale, k).astype(jnp.float32) + bias[None, None]
    if shift:
        logits = logits + shift_mask(S, side, shift)[None, :, None]
    weights = jax.nn.softmax(logits).astype(v.dtype)
    x = jnp.einsum("bwknm,bwmkd->bwnkd", weights, v)
    x = from_windows(x.reshape(*x.shape[:3], K * D), side, S)
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

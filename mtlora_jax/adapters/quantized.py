"""Kernels of frozen layers in 8 or 4 bits: codes and scales in memory, floats in a product.

`int8`: a column of a kernel has one scale. `nf4`: 64 entries of a column share one, and a code is one of 16 quantiles
of the normal distribution (QLoRA, Dettmers et al. 2023, section 3), two codes in a byte. A kernel that is stored so is
`{"codes": ..., "scale": float32}` in its parameter's place.

>>> import jax.numpy as jnp
>>> stored = quantize(jnp.ones((64, 2)), "nf4")
>>> stored["codes"].shape, stored["scale"].shape, dequantize(stored, jnp.float32).shape
((32, 2), (1, 2), (64, 2))
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import traverse_util

Kind = Literal["none", "int8", "nf4"]
"""How kernels are stored; `none` is as floats."""
Stored = Mapping[str, jax.Array]
"""`codes`, int8 `[..., in, out]` or uint8 `[..., in / 2, out]`, and `scale`, float32 `[..., 1 or in / 64, out]`."""
BLOCK = 64
LEVELS = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
"""The 16 values of nf4 before they are scaled."""


def quantize(kernel: jax.Array, kind: Kind) -> dict[str, jax.Array]:
    """A kernel `[..., in, out]` in 8 or 4 bits, every entry rounded to the nearest code.

    Raises:
      ValueError: nf4 of a width that 64 does not divide.
    """
    # Imported where needed: most runs quantise nothing.
    import qwix

    rows, kept = kernel.ndim - 2, [axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2]
    kernel = kernel.astype(jnp.float32)
    if kind == "int8":
        made = qwix.quantize(kernel, jnp.int8, channelwise_axes=kept)
        return {"codes": made.qvalue, "scale": made.scale}
    if kernel.shape[rows] % BLOCK:
        raise ValueError(f"nf4 is of blocks of {BLOCK}: an input {kernel.shape[rows]} wide does not divide into them")
    made = qwix.quantize(kernel, kind, channelwise_axes=kept, tiled_axes={rows: BLOCK})
    low, high = jnp.split(_blocks(made.qvalue.astype(jnp.uint8), BLOCK), 2, axis=-2)
    return {"codes": _rows(low | high << 4), "scale": made.scale}


def dequantize(stored: Stored, dtype: jnp.dtype) -> jax.Array:
    """The floats of a kernel, `[..., in, out]`, scaled in float32 and rounded to a dtype once."""
    codes, scale = stored["codes"], stored["scale"]
    if codes.dtype == jnp.uint8:
        # Within a block, so that no entry leaves its device; as choices, because tables are slow to read on a TPU.
        halves = _blocks(codes, BLOCK // 2)
        codes = jnp.concatenate([halves & 15, halves >> 4], axis=-2).astype(jnp.int32)
        values = jax.lax.select_n(codes, *(jnp.full(codes.shape, level, jnp.float32) for level in LEVELS))
    else:
        values = codes[..., None, :, :].astype(jnp.float32)
    return _rows((values * scale[..., None, :]).astype(dtype))


def initializer(init: Callable, kind: Kind) -> Callable:
    """`(key, shape) -> ` what `init` draws, stored so."""
    return lambda key, shape: quantize(init(key, shape), kind)


def dequantized(params: Mapping, dtype: jnp.dtype = jnp.float32) -> dict:
    """A tree of parameters with floats in the place of all that is stored as codes."""
    flat = traverse_util.flatten_dict(dict(params))
    for path in [path[:-1] for path in flat if path[-1] == "codes"]:
        flat[path] = dequantize({name: flat.pop((*path, name)) for name in ("codes", "scale")}, dtype)
    return traverse_util.unflatten_dict(flat)


def _blocks(x: jax.Array, size: int) -> jax.Array:
    """`[..., rows, out]` as `[..., rows / size, size, out]`."""
    return x.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def _rows(x: jax.Array) -> jax.Array:
    """The inverse of `_blocks`."""
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])

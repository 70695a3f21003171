"""A digest per array that does not depend on how the array is sharded.

Each 32-bit word is multiplied by an odd number hashed from its position, and the products are added
modulo 2**32, for two families of multipliers. Changing one word always changes both sums, and since such
sums have no order, hosts and devices can add up what they hold. It guards against broken files, not
against forgery.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

FAMILIES = (0x9E3779B1, 0x85EBCA77)
MIX = 0x2C1B3C6D
PIECE = 1 << 16
"""Words that the host sums up at a time, so that they stay in its cache."""


def digest(x: jax.Array | np.ndarray) -> str:
    """16 hexadecimal digits for an array's bytes; computed on the host wherever it has them all."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if not x.is_fully_replicated:
            return _hex(jax.device_get(device_sums(x)))
        x = x.addressable_data(0)
    array = np.ascontiguousarray(x).reshape(-1)
    words, sums = array.view(_word(array.dtype)), [0] * len(FAMILIES)
    for start in range(0, words.size, PIECE):
        piece = words[start : start + PIECE].astype(np.uint32)
        index = np.arange(start, start + piece.size, dtype=np.uint64).astype(np.uint32)
        sums = [(total + int(of)) % 2**32 for total, of in zip(sums, _sums(piece, index, np), strict=True)]
    return _hex(sums)


@jax.jit
def device_sums(x: jax.Array) -> list[jax.Array]:
    """The same sums where the array lies, global over all its shards."""
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, _word(x.dtype)).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, stride in enumerate(math.prod(words.shape[i + 1 :]) for i in range(words.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
    return _sums(words, index, jnp)


def _word(dtype: np.dtype) -> np.dtype:
    """Unsigned words of the dtype's size; 8 bytes are two words."""
    return np.dtype(f"uint{8 * min(np.dtype(dtype).itemsize, 4)}")


def _sums(words, index, xp) -> list:
    def total(family: int):
        weight = index * xp.uint32(family)
        weight = (weight ^ (weight >> xp.uint32(15))) * xp.uint32(MIX) | xp.uint32(1)
        return (words * weight).sum(dtype=xp.uint32)

    return [total(family) for family in FAMILIES]


def _hex(sums) -> str:
    return "".join(f"{int(value):08x}" for value in sums)

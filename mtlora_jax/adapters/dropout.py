"""Dropout whose mask is computed where it is used, from a key and a place in the array alone.

JAX's own generator takes twenty rounds for a word and, on a CPU, keeps its state in memory between them; here a word
takes two dozen operations, which the compiler puts into whatever reads the mask. It is a function of the key and of an
entry's row and column: the same on all devices, of which none needs another's part.
"""

import math

import jax
import jax.numpy as jnp


def check_dropout(rate: float) -> None:
    """Raises ValueError unless the rate is a probability below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"adapter dropout must lie in [0, 1), not {rate}")


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout of `[..., C]`; the identity without a key. The probability is the multiple of 2^-32 next to the
    rate."""
    if key is None or rate == 0:
        return x
    dropped = min(round(rate * 2**32), 2**32 - 1)
    return jnp.where(words(key, x.shape) >= jnp.uint32(dropped), x * (2**32 / (2**32 - dropped)), 0).astype(x.dtype)


def words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random words of 32 bits, `[..., C]`, of up to 2^32 rows of up to 2^32 entries.

    Two words of the key make two of each row, and these one of each entry: rows of which one word is the same differ by
    the other.
    """
    first, second = jax.random.bits(key, (2,))
    *lead, last = shape
    row = jnp.zeros((*lead, 1), jnp.uint32)
    for axis in range(len(lead)):
        row += jax.lax.broadcasted_iota(jnp.uint32, row.shape, axis) * jnp.uint32(math.prod(lead[axis + 1 :]) % 2**32)
    column = jax.lax.broadcasted_iota(jnp.uint32, (*(1 for _ in lead), last), len(lead))
    return _mixed(_mixed(column ^ _mixed(row ^ first)) + _mixed(row ^ second))


def _mixed(x: jax.Array) -> jax.Array:
    """One word for another, no two for the same; each bit of the one changes every bit of the other in half the cases
    (C. Wellons, hash-prospector: `lowbias32`)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

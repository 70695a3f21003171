"""Rotary position embeddings, in the half-split convention of Hugging Face weights, with their scalings."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """How frequencies are changed for texts longer than those of pretraining.

    Attributes:
      kind: `linear` divides all; `dynamic` raises the base once a text outgrows `original`; `llama3` divides the slow
        ones, keeps the fast ones and blends in between.
      factor: how much longer texts may be.
      low, high: `llama3`'s bounds, as parts of `original`.
      original: positions in pretraining.
    """

    kind: Literal["linear", "dynamic", "llama3"] = "llama3"
    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None, length: int = 0) -> np.ndarray:
    """Radians a position, `[head_dim / 2]` float32: `theta ** (-2 i / head_dim)`, scaled.

    Args:
      length: the text's, which `dynamic` scaling goes by.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    if scaling is not None and scaling.kind == "dynamic" and length > scaling.original:
        stretch = scaling.factor * length / scaling.original - (scaling.factor - 1)
        theta = theta * stretch ** (head_dim / (head_dim - 2))
    frequencies = theta**-exponent
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        turns = scaling.original * frequencies / (2 * np.pi)
        kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
        frequencies = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    return frequencies.astype(np.float32)


def frequencies_of(head_dim: int, theta: float, scaling: RopeScaling | None, lengths: jax.Array) -> jax.Array:
    """`inverse_frequencies`, `[H / 2]`, or for `dynamic` scaling `[B, L, H / 2]`: those of each token's own text.

    Args:
      lengths: `[B, L]`, tokens of the text that a token belongs to.
    """
    plain = inverse_frequencies(head_dim, theta, None if scaling is None or scaling.kind == "dynamic" else scaling)
    if scaling is None or scaling.kind != "dynamic":
        return jnp.asarray(plain)
    over = jnp.maximum(lengths, scaling.original).astype(jnp.float32)
    stretch = scaling.factor * over / scaling.original - (scaling.factor - 1)
    power = np.arange(0, head_dim, 2, dtype=np.float32) / (head_dim - 2)
    return plain[None, None] * stretch[..., None] ** -power[None, None]


def rotate(x: jax.Array, positions: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Turns every pair (i, i + head_dim / 2) by position times frequency.

    Args:
      x: `[B, L, K, head_dim]`.
      positions: `[B, L]`.
      frequencies: `[head_dim / 2]`, or `[B, L, head_dim / 2]`.
    """
    frequencies = frequencies.reshape(*(positions.shape if frequencies.ndim == 3 else (1, 1)), 1, -1)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

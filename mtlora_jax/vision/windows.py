"""Attention windows as arrays: cutting and joining, relative positions, and what a cyclic shift must not join."""

from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np

MASKED = -100.0
"""Added to the logits of token pairs that a shifted window joins by accident; finite, as in the original."""


@dataclass(frozen=True)
class Windows:
    """Attention of one block.

    Attributes:
      side: of a window, in tokens.
      shift: of the windows against the grid, in tokens.
      scale: multiplier of the logits.
    """

    side: int
    shift: int
    scale: float


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """`[B, H, W, C]` to `[B, windows, N, C]`, windows and their tokens in row-major order."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // window, window, W // window, window, C).swapaxes(2, 3)
    return x.reshape(B, -1, window * window, C)


def from_windows(x: jax.Array, window: int, height: int) -> jax.Array:
    """The inverse of `to_windows`, for an image of `height` rows."""
    B, _, _, C = x.shape
    rows = height // window
    x = x.reshape(B, rows, -1, window, window, C).swapaxes(2, 3)
    return x.reshape(B, height, -1, C)


@lru_cache
def relative_position_index(window: int) -> np.ndarray:
    """`[N, N]`: which row of the bias table belongs to a pair of tokens."""
    y, x = np.divmod(np.arange(window * window), window)
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def part(y, x, grid: int, window: int, shift: int):
    """Of tokens at rows y and columns x of a shifted grid, the part of the image that each belongs to: tokens of other
    parts are neighbours by the cyclic shift alone. Arrays of NumPy or JAX."""

    def band(of):
        return (of >= grid - window).astype(np.int32) + (of >= grid - shift).astype(np.int32)

    return 3 * band(y) + band(x)


@lru_cache
def shift_mask(grid: int, window: int, shift: int) -> np.ndarray:
    """`[windows, N, N]`: 0 between tokens that were neighbours before the cyclic shift, `MASKED` elsewhere."""
    side = np.arange(grid)
    region = part(side[:, None], side[None], grid, window, shift)
    rows = grid // window
    region = region.reshape(rows, window, rows, window).swapaxes(1, 2).reshape(rows * rows, -1)
    return np.where(region[:, :, None] == region[:, None], 0.0, MASKED).astype(np.float32)

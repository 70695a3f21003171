"""Attention by blocks equals attention with a whole mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.language.attention import Mask, attend, causal_mask, mask_of


def packed(rng, rows: int, length: int, reach: int) -> jax.Array:
    """Segment ids of rows that hold texts of 1 to `reach` tokens, and padding at the end of some."""
    result = np.zeros((rows, length), np.int32)
    for row in result:
        begin = segment = 0
        while begin < length and rng.random() > 0.1:
            n = int(rng.integers(1, reach + 1))
            segment += 1
            row[begin : begin + n] = segment
            begin += n
    return jnp.asarray(result)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 40))
def test_blocks_see_what_the_whole_mask_shows(seed, reach, length):
    rng = np.random.default_rng(seed)
    ids = packed(rng, 2, length, reach)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, heads, 4)), jnp.float32) for heads in (4, 2, 2))
    mask = mask_of(ids, reach)
    assert (mask.allowed.ndim == 4) == (2 * reach < length)

    def loss(q, k, v, mask):
        y = attend(q, k, v, mask)
        # Padding sees nothing, and means nothing.
        return (jnp.where((ids > 0)[..., None, None], y, 0) ** 2).sum()

    whole = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, Mask(causal_mask(ids)))
    blocks = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, mask)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_blocks_hold_less_than_the_whole():
    ids = packed(np.random.default_rng(0), 3, 1024, 16)
    assert mask_of(ids, 16).allowed.size == 3 * 1024 * 32
    assert mask_of(ids).allowed.shape == (3, 1024, 1024)


@pytest.mark.parametrize("reach", [0, 5, 100])
def test_a_mask_never_reaches_beyond_its_row(reach):
    mask = mask_of(jnp.ones((1, 8), jnp.int32), reach)
    assert mask.reach == min(reach or 8, 8)

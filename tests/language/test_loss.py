"""Losses of the positions that have targets, and of no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.language import loss
from mtlora_jax.language.packing import IGNORE


def plain(kernel, hidden, targets):
    """Over all positions at once."""
    logits = hidden @ kernel
    each = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
    known = targets != IGNORE
    return {"nll": jnp.where(known, each, 0), "prediction": jnp.where(known, logits.argmax(-1), 0)}


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_chunks_equal_the_whole(seed, rows, length, share):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(5, 11)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(rows, length, 5)), jnp.float32)
    targets = np.where(rng.random((rows, length)) < share, rng.integers(0, 11, (rows, length)), IGNORE)
    targets = jnp.asarray(targets, jnp.int32)

    def ours(kernel, hidden):
        return loss.token_losses(lambda x: x @ kernel, 11, hidden, targets)

    found, expected = ours(kernel, hidden), plain(kernel, hidden, targets)
    np.testing.assert_array_equal(found["prediction"], expected["prediction"])
    np.testing.assert_allclose(found["nll"], expected["nll"], rtol=1e-5, atol=1e-6)
    weight = jnp.asarray(rng.normal(size=(rows, length)), jnp.float32)
    gradients = [
        jax.grad(lambda k, h, fn=fn: (fn(k, h)["nll"] * weight).sum(), (0, 1))(kernel, hidden)
        for fn in (ours, lambda k, h: plain(k, h, targets))
    ]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("answers", [0, 1, 20])
def test_the_head_is_not_asked_where_no_row_has_a_target(answers):
    asked = []

    def head(x):
        jax.debug.callback(lambda x: asked.append(x.shape[1]), x, ordered=False)
        return x

    targets = np.full((2, 160), IGNORE, np.int32)
    targets[1, 30 : 30 + answers] = 1
    jax.block_until_ready(loss.token_losses(head, 4, jnp.ones((2, 160, 4)), jnp.asarray(targets)))
    jax.effects_barrier()
    assert sum(asked) == -(-answers // 10) * 10


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_head_s_weights_are_kept_once_and_not_of_every_chunk(dtype):
    # Sixteen chunks over 4 MB of weights, frozen or not: the backward pass may hold a few copies, and not sixteen.
    kernel, targets = jnp.ones((256, 4096)), jnp.ones((2, 32), jnp.int32)

    def total(kernel, hidden):
        def head(x):
            return jnp.matmul(x, kernel.astype(dtype), preferred_element_type=jnp.float32)

        return loss.token_losses(head, 4096, hidden, targets)["nll"].sum()

    for argnums in (1, (0, 1)):
        step = jax.jit(jax.grad(total, argnums)).lower(kernel, jnp.ones((2, 32, 256), dtype))
        assert step.compile().memory_analysis().temp_size_in_bytes < 6 * kernel.nbytes

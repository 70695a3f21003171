"""Attention by blocks equals attention with a whole mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax import config, devices
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.mesh import batch_sharding, make_mesh
from mtlora_jax.language import attention
from mtlora_jax.language.attention import Mask, attend, causal_mask, has_splash, mask_of, plain, splash


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


def drawn(B, L, K, G, H):
    rng = np.random.default_rng(0)
    shapes = (B, L, K, H), (B, L, G, H), (B, L, G, H), (B, L, K, H)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def gradients(fn, q, k, v, cotangent):
    out, pull = jax.vjp(fn, q, k, v)
    return out, *pull(cotangent)


@pytest.mark.parametrize("reach", [0, 100])
def test_the_kernel_for_tpus_is_attention_and_so_is_its_gradient(reach, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 128)
    ids = packed(np.random.default_rng(1), 2, 256, 90)
    assert (ids == 0).any()
    q, k, v, cotangent = drawn(2, 256, 4, 2, 128)
    cotangent = cotangent * (ids > 0)[:, :, None, None]  # what padding sees is nobody's
    found = jax.jit(lambda *x: gradients(lambda q, k, v: splash(q, k, v, mask_of(ids, reach), interpret=True), *x))
    expected = gradients(lambda q, k, v: plain(q, k, v, causal_mask(ids, reach)), q, k, v, cotangent)
    out, *of_inputs = found(q, k, v, cotangent)
    np.testing.assert_allclose(out[ids > 0], expected[0][ids > 0], rtol=1e-5, atol=1e-5)
    for x, y in zip(of_inputs, expected[1:], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_multiplications_of_the_kernel_are_counted(monkeypatch):
    """By blocks of 128: of a row of 512 tokens that each see 100, a block sees itself and the one before."""
    monkeypatch.setattr(attention, "BLOCK", 128)
    q, k, v, cotangent = drawn(2, 512, 4, 2, 128)
    ids = jnp.ones((2, 512), jnp.int32)

    def kernel(q, k, v):
        return splash(q, k, v, mask_of(ids, 100), interpret=True)

    # Forward 2 products; backward 4 for keys and values, 3 for queries, and each output times its cotangent.
    of_pairs = 2 * 4 * (512 * 2 * 128) * 128
    assert macs(kernel, q, k, v) == 2 * of_pairs
    assert macs(lambda *x: gradients(kernel, *x), q, k, v, cotangent) == 9 * of_pairs + q.size


@pytest.mark.parametrize("G", [2, 1])
def test_a_mesh_s_devices_each_attend_in_their_own_rows_and_heads(G):
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    q, k, v, _ = drawn(4, 128, 2, G, 128)
    mask = mask_of(jnp.ones((4, 128), jnp.int32))
    with devices.traced_for(mesh):
        cut = [jax.device_put(x, batch_sharding(mesh)) for x in (q, k, v)]
        found = jax.jit(lambda q, k, v: splash(q, k, v, mask, interpret=True))(*cut)
    np.testing.assert_allclose(found, plain(q, k, v, mask.allowed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "L", "H", "has"),
    [
        ("bfloat16", 256, 128, True),
        ("float32", 256, 128, False),
        ("bfloat16", 200, 128, False),
        ("bfloat16", 256, 64, False),
    ],
)
def test_which_attention_a_tpu_has_a_kernel_for(dtype, L, H, has):
    mask = mask_of(jnp.ones((2, L), jnp.int32), 100)
    q = jax.ShapeDtypeStruct((2, L, 4, H), dtype)
    assert has_splash(q, mask) == has
    assert not has_splash(q, mask.replace(segments=None))

"""Kernels in 8 and 4 bits: what their codes stand for, and what a layer computes with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from mtlora_jax.adapters import Dense, LoRA, quantized

KINDS = {"int8": (jnp.int8, {}, 1), "nf4": ("nf4", {1: 64}, 0.5)}
"""Of each, what qwix calls it, its blocks, and bytes of a code."""


def kernel_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_stand_for_the_floats_that_qwix_says(kind):
    kernel, (name, blocks, width) = jnp.asarray(kernel_of(3, 128, 8)), KINDS[kind]
    stored = quantized.quantize(kernel, kind)
    expected = qwix.dequantize(qwix.quantize(kernel, name, channelwise_axes=(0, 2), tiled_axes=blocks))
    np.testing.assert_array_equal(quantized.dequantize(stored, jnp.float32), expected)
    assert stored["codes"].nbytes == kernel.size * width
    half = quantized.dequantize(stored, jnp.bfloat16)
    np.testing.assert_array_equal(half, expected.astype(jnp.bfloat16))


def test_int8_is_off_by_half_a_step_at_most():
    kernel = kernel_of(128, 8)
    found = quantized.dequantize(quantized.quantize(jnp.asarray(kernel), "int8"), jnp.float32)
    step = np.abs(kernel).max(0) / 127.5
    assert (np.abs(found - kernel) <= step * 0.5001).all()


def test_nf4_of_its_own_levels_is_exact_in_every_block():
    # Blocks of all 16 values, each at a size of its own: what comes back is what went in, entry by entry.
    rng = np.random.default_rng(1)
    block = np.stack([rng.permutation(np.tile(quantized.LEVELS, 4)) for _ in range(6)]).reshape(2, 3, 64)
    kernel = (block * np.array([[0.5, 2.0, 8.0]] * 2)[..., None]).astype(np.float32)
    kernel = jnp.asarray(kernel.transpose(0, 2, 1).reshape(128, 3))
    stored = quantized.quantize(kernel, "nf4")
    np.testing.assert_allclose(stored["scale"], [[0.5, 2.0, 8.0]] * 2)
    np.testing.assert_allclose(quantized.dequantize(stored, jnp.float32), kernel, rtol=1e-6)


def test_nf4_refuses_what_does_not_divide_into_blocks():
    with pytest.raises(ValueError, match="nf4 is of blocks of 64: an input 96 wide does not divide"):
        quantized.quantize(jnp.ones((96, 4)), "nf4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_a_layer_computes_what_it_would_with_the_floats(kind, dtype):
    layer = Dense(6, adapter=LoRA(rank=2), quantize=kind, dtype=dtype)
    x = kernel_of(5, 128)
    variables = layer.init(jax.random.key(0), x)
    variables["lora"]["B"] = jnp.asarray(kernel_of(2, 6))
    plain = {**variables, "params": quantized.dequantized(variables["params"])}
    assert plain["params"]["kernel"].shape == (128, 6)

    def loss(layer, params):
        return lambda lora, x: jnp.square(layer.apply({"params": params, "lora": lora}, x).astype(jnp.float32)).sum()

    ours = jax.grad(loss(layer, variables["params"]), (0, 1))(variables["lora"], x)
    theirs = jax.grad(loss(layer.clone(quantize="none"), plain["params"]), (0, 1))(variables["lora"], x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)

"""Window attention in one kernel computes what matrix products do."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlora_jax import config, devices
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.mesh import batch_sharding, make_mesh
from mtlora_jax.vision import attention_kernel
from mtlora_jax.vision.attention import attend, has_kernel, in_lanes, on_each_device, plain
from mtlora_jax.vision.windows import Windows


def draw(B, S, K, D, side):
    rng = np.random.default_rng(0)
    shapes = (B, S, S, 3, K, D), (K, side**2, side**2), (B, S, S, K * D)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def gradients(fn, qkv, bias, cotangent):
    out, pull = jax.vjp(fn, qkv, bias)
    return out, pull(cotangent)


@pytest.mark.parametrize(
    ("S", "windows"),
    [
        (14, Windows(7, 3, 0.25)),
        (7, Windows(7, 0, 0.25)),
        (12, Windows(4, 2, 0.1)),
        (8, Windows(8, 0, 0.25)),
    ],
    ids=["shifted", "one window", "small windows", "no padding"],
)
def test_the_kernel_is_attention_and_so_is_its_gradient(S, windows, monkeypatch):
    monkeypatch.setattr(attention_kernel, "PROGRAMS", 3)  # so that each has several windows, and the last fewer
    qkv, bias, cotangent = draw(1, S, 2, 16, windows.side)
    kernel = jax.jit(partial(attention_kernel.attend, windows=windows, interpret=True))
    expected = gradients(partial(plain, windows=windows), qkv, bias, cotangent)
    close(gradients(kernel, qkv, bias, cotangent), expected)


@pytest.mark.parametrize(
    ("K", "D", "shift"),
    [(3, 32, 3), (6, 32, 0), (8, 32, 3), (2, 256, 0)],
    ids=["three heads in one product", "twice three", "twice four", "wider than lanes"],
)
def test_heads_side_by_side_are_attention_and_so_is_their_gradient(K, D, shift):
    windows = Windows(7, shift, 0.2)
    qkv, bias, cotangent = draw(1, 14, K, D, windows.side)
    expected = gradients(partial(plain, windows=windows), qkv, bias, cotangent)
    close(gradients(jax.jit(partial(in_lanes, windows=windows)), qkv, bias, cotangent), expected)


def test_a_program_is_written_for_the_devices_of_its_mesh():
    windows, (qkv, bias, _) = Windows(7, 3, 0.2), draw(1, 14, 3, 32, 7)

    def multiplications() -> int:
        return macs(partial(attend, windows=windows), qkv, bias)

    alone = multiplications()
    tpu = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    with devices.traced_for(SimpleNamespace(devices=np.array([tpu]), size=1)):
        assert (devices.on_tpu(), devices.on_nvidia()) == (True, False)
        assert multiplications() == 3 * alone
    assert multiplications() == alone


def test_a_mesh_s_devices_each_attend_in_their_own_images():
    windows = Windows(4, 2, 0.25)
    qkv, bias, cotangent = draw(4, 8, 1, 16, 4)
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    kernel = on_each_device(partial(attention_kernel.attend, windows=windows, interpret=True), mesh)
    cut = (jax.device_put(x, batch_sharding(mesh)) for x in (qkv, cotangent))
    expected = gradients(partial(plain, windows=windows), qkv, bias, cotangent)
    found = jax.jit(partial(gradients, kernel))(next(cut), bias, next(cut))
    assert found[0].sharding.is_equivalent_to(batch_sharding(mesh), 4)
    close(found, expected)


@pytest.mark.parametrize(
    ("dtype", "D", "side", "has"),
    [("bfloat16", 32, 7, True), ("float32", 32, 7, False), ("bfloat16", 12, 7, False), ("bfloat16", 32, 12, False)],
)
def test_which_windows_have_a_kernel(dtype, D, side, has):
    qkv = jax.ShapeDtypeStruct((2, 24, 24, 3, 2, D), dtype)
    assert has_kernel(qkv, Windows(side, 0, 1.0)) == has


def test_a_kernel_s_multiplications_are_counted():
    windows = Windows(4, 2, 0.25)
    qkv, bias, _ = draw(1, 8, 2, 16, 4)
    kernel = partial(attention_kernel.attend, windows=windows, interpret=True)
    assert macs(kernel, qkv, bias) == macs(partial(plain, windows=windows), qkv, bias)


def test_those_of_all_devices_are():
    windows = Windows(4, 2, 0.25)
    qkv, bias, _ = draw(8, 8, 1, 16, 4)
    kernel = partial(attention_kernel.attend, windows=windows, interpret=True)
    each = on_each_device(kernel, make_mesh(config.Mesh(data=4, fsdp=2)))
    assert macs(each, qkv, bias) == macs(kernel, qkv, bias)

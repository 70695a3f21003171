"""Task streams that are not in memory: the kernel that reads them, and layers that leave them to it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlora_jax import config
from mtlora_jax.adapters import MTLoRA, Streams, mtlora, smap
from mtlora_jax.adapters import deferred_kernel as kernel
from mtlora_jax.adapters.deferred import Deferred, on_each_device
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.vision.swin import gelu


def draw(*shapes):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def plain(base, low, up, a):
    return Deferred(base, low, up, (gelu,)).down(a)


def gradients(fn, cotangent, *args):
    out, pull = jax.vjp(fn, *args)
    return out, pull(cotangent)


def close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * float(jnp.abs(y).max()))


@pytest.mark.parametrize(("T", "rows", "R", "Q"), [(3, 37, 4, 5), (1, 64, 16, 16), (2, 200, 1, 3)])
def test_the_kernel_is_the_product_and_so_is_its_gradient(T, rows, R, Q, monkeypatch):
    monkeypatch.setattr(kernel, "PROGRAMS", 2)  # so that a program has several rows, and the last fewer
    base, low, up, a, cotangent = draw((2, rows, 128), (T, 2, rows, R), (T, R, 128), (T, 128, Q), (T, 2, rows, Q))
    ours = jax.jit(partial(kernel.down, fn=gelu, interpret=True))
    close(gradients(ours, cotangent, base, low, up, a), gradients(plain, cotangent, base, low, up, a))


def test_a_mesh_s_devices_each_compute_their_own_examples():
    base, low, up, a, cotangent = draw((4, 5, 64), (2, 4, 5, 4), (2, 4, 64), (2, 64, 4), (2, 4, 5, 4))
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    ours = jax.jit(on_each_device(partial(kernel.down, fn=gelu, interpret=True), mesh))
    close(gradients(ours, cotangent, base, low, up, a), gradients(plain, cotangent, base, low, up, a))


@pytest.mark.parametrize(
    ("dtype", "R", "O", "has"),
    [("bfloat16", 4, 384, True), ("float32", 4, 384, False), ("bfloat16", 32, 384, False), ("bfloat16", 4, 96, False)],
)
def test_which_streams_have_a_kernel(dtype, R, O, has):
    shapes = jax.eval_shape(lambda: Deferred(*(jnp.ones(s, dtype) for s in ((2, O), (3, 2, R), (3, R, O)))))
    assert shapes.has_kernel(jax.ShapeDtypeStruct((3, O, R), dtype)) == has


def test_the_kernel_s_multiplications_are_counted():
    args = draw((64, 64), (2, 64, 16), (2, 16, 64), (2, 64, 16))
    assert macs(partial(kernel.down, fn=gelu, interpret=True), *args) == macs(plain, *args)


@pytest.mark.parametrize("task_base", ["shared", "per_task"])
@pytest.mark.parametrize("mode", ["matrix", "matrixv2", "addition"])
@pytest.mark.parametrize("begins", [True, False])
def test_two_layers_are_the_same_whether_or_not_the_first_defers(mode, task_base, begins):
    tasks = ("a", "b")
    spec = MTLoRA(3, 0.5, tasks, (2, 4), (1.0, 2.0), mode=mode, task_base=task_base)
    x, streams, first, second = draw((2, 5, 6), (2, 2, 5, 6), (6, 8), (8, 6))
    wide, narrow = (mtlora.init(spec, jax.random.key(i), *shape) for i, shape in enumerate(((6, 8), (8, 6))))
    wide, narrow = (jax.tree.map(lambda leaf: leaf + 0.1, leaves) for leaves in (wide, narrow))

    def both(x, defer):
        y = mtlora.apply(spec, wide, first, None, x, defer=defer)
        assert isinstance(y.tasks, Deferred) == (defer and mode == "matrix" and (begins or task_base == "shared"))
        return mtlora.apply(spec, narrow, second, None, smap(gelu, y))

    x = x if begins else Streams(x, streams)
    close(both(x, True), both(x, False), 1e-6)

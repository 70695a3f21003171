"""The backbone's parts against the reference's, and what its specs refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.adapters import MTLoRA, Streams
from mtlora_jax.convert import reference
from mtlora_jax.vision.swin import (
    VARIANTS,
    DropPath,
    PatchMerging,
    SwinSpec,
    swin,
)
from mtlora_jax.vision.windows import from_windows, relative_position_index, shift_mask, to_windows


@pytest.mark.parametrize("window", [2, 4, 7])
def test_relative_position_index(window):
    np.testing.assert_array_equal(relative_position_index(window), arrays("mtlora_modules.npz")[f"rel_index/{window}"])


@pytest.mark.parametrize(("grid", "window"), [(14, 7), (8, 4), (28, 7)])
def test_shift_mask(grid, window):
    expected = arrays("mtlora_modules.npz")[f"attn_mask/{grid}_{window}"]
    np.testing.assert_array_equal(shift_mask(grid, window, window // 2), expected)


def test_buffers_are_the_published_checkpoints():
    """Swin-T at 448 has six masks, in the odd blocks of every stage."""
    found = reference.buffers(swin("tiny", image_size=448))
    masks = {name: x.shape for name, x in found.items() if name.endswith("attn_mask")}
    stages = [f"backbone.layers.{s}.blocks.{b}.attn_mask" for s, b in ((0, 1), (1, 1), (2, 1), (2, 3), (2, 5), (3, 1))]
    windows = [256, 64, 16, 16, 16, 4]
    assert masks == {name: (n, 49, 49) for name, n in zip(stages, windows, strict=True)}
    assert len(found) == 6 + sum(VARIANTS["tiny"]["depths"])
    # At 224 the last stage is one window, which never shifts.
    assert "backbone.layers.3.blocks.1.attn_mask" not in reference.buffers(swin("tiny", image_size=224))


def test_patch_merging():
    golden = arrays("mtlora_modules.npz")
    params = {
        "norm": {"scale": golden["patch_merging/p:norm.weight"], "bias": golden["patch_merging/p:norm.bias"]},
        "reduction": {"kernel": golden["patch_merging/p:reduction.weight"].T},
    }
    x = golden["patch_merging/x"].reshape(2, 4, 4, 3)
    y = PatchMerging().apply({"params": params}, x, False)
    np.testing.assert_allclose(y.reshape(2, 4, 6), golden["patch_merging/y"], atol=1e-5)


@pytest.mark.parametrize("adapter", [None, MTLoRA(rank=3, scale=4.0)])
def test_composing_with_what_follows_is_exact(adapter):
    """Task streams through patch merging and a 1 x 1 convolution, as one product or as two."""
    rng = np.random.default_rng(0)
    x = Streams(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 4, 4, 5), (3, 2, 4, 4, 5))))
    then = jnp.asarray(rng.normal(size=(3, 10, 7)), jnp.float32)
    layer = PatchMerging(adapter)
    variables = layer.init({"params": jax.random.key(0), "lora": jax.random.key(1)}, x, False)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), variables)
    plain, composed = layer.apply(variables, x, False), layer.apply(variables, x, False, then)
    np.testing.assert_array_equal(plain.shared, composed.shared)
    expected = jnp.einsum("t...i,tip->t...p", plain.tasks, then)
    np.testing.assert_allclose(composed.tasks, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_windows_invert(window, rows, columns):
    x = np.arange(2 * rows * window * columns * window * 3).reshape(2, rows * window, columns * window, 3)
    windows = to_windows(x, window)
    assert windows.shape == (2, rows * columns, window * window, 3)
    np.testing.assert_array_equal(windows[:, 0, 0], x[:, 0, 0])
    np.testing.assert_array_equal(from_windows(windows, window, rows * window), x)


def test_drop_path_draws_per_example_and_stream():
    x = Streams(jnp.ones((64, 2, 2, 1)), jnp.ones((3, 64, 2, 2, 1)))
    y = DropPath(0.25).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    for stream in (y.shared, *y.tasks):
        assert set(np.unique(stream)) == {0.0, np.float32(1 / 0.75)}
        np.testing.assert_array_equal(stream.min((1, 2, 3)), stream.max((1, 2, 3)))
    masks = [tuple(np.asarray(s[:, 0, 0, 0])) for s in (y.shared, *y.tasks)]
    assert len(set(masks)) == 4
    assert DropPath(0.25).apply({}, x, False) is x


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_size": 230}, "image_size 230 is not a multiple of 32; 224 is"),
        ({"image_size": 352}, "gives stage 0 a grid of 88 tokens, which windows of 7 do not divide; image_size 448"),
        ({"heads": (3, 6, 12, 25)}, "stage 3 has 768 channels, which 25 heads do not divide"),
        ({"heads": (3, 6)}, "4 depths but 2 head counts"),
    ],
)
def test_impossible_backbones_are_told_in_a_line(changes, problem):
    assert problem in swin("tiny", **changes).problems()


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes_are_possible(variant):
    assert swin(variant).problems() is None


def test_taps_follow_patch_merging():
    assert [swin("tiny", image_size=448).feature_map(i) for i in range(4)] == [
        (56, 192),
        (28, 384),
        (14, 768),
        (14, 768),
    ]
    assert [SwinSpec().feature_map(i)[0] for i in range(4)] == [28, 14, 7, 7]

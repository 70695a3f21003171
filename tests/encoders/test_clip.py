"""CLIP's trunk against an independent implementation, from a TorchScript archive as OpenAI publishes them."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mtlora_jax.encoders.clip import ResNet, ResNetSpec, encoder, rn101
from mtlora_jax.errors import UserError

DATA = Path(__file__).parents[1] / "data" / "vl"
# An archive of torch 2.13's jit.save, of open_clip's ModifiedResNet of depths 1, 2, 1, 1 and width 2, and its last map.
TINY = ResNetSpec((1, 2, 1, 1), 2, 64)


def test_the_last_map_is_the_published_network_s():
    golden = np.load(DATA / "clip_tiny.npz")
    opened = encoder("tiny", str(DATA / "clip_tiny.pt"), TINY)
    found = opened.forward(opened.variables, golden["images"])
    np.testing.assert_allclose(found, golden["features"], atol=1e-5)
    features = opened(golden["images"])
    assert (features.dtype, features.shape[1:]) == (np.float16, (4, opened.features))


def test_an_archive_of_another_network_is_refused():
    with pytest.raises(UserError, match=r"visual\.layer"):
        encoder("deep", str(DATA / "clip_tiny.pt"), ResNetSpec((2, 2, 1, 1), 2, 64))
    with pytest.raises(UserError, match="of another size"):
        encoder("wide", str(DATA / "clip_tiny.pt"), ResNetSpec((1, 2, 1, 1), 4, 64))
    with pytest.raises(UserError, match="there is no file"):
        rn101("none.pt")


def test_a_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes((DATA / "clip_tiny.pt").read_bytes()[:4000])
    with pytest.raises(UserError, match="truncated"):
        encoder("cut", str(path), TINY)


def test_sizes_of_rn101():
    model, images = ResNet(ResNetSpec()), np.zeros((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    # 56,259,936 of the image tower less 13,740,544 of attention pooling; running moments do not count.
    assert sum(leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "var")) == 42_519_392
    assert jax.eval_shape(model.apply, shapes, images).shape == (1, 7, 7, 2048)

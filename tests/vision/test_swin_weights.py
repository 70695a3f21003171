"""Pretrained Swins of three libraries give those libraries' outputs."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden import DATA, SWIN, arrays, compiled

from mtlora_jax.errors import UserError
from mtlora_jax.vision import swin_weights as weights
from mtlora_jax.vision.swin import Swin, SwinSpec, swin
from mtlora_jax.weights import mapping, safetensors
from mtlora_jax.weights.hub import read

FILES = {
    "swin_timm.safetensors": "original",
    "swin_microsoft.pth": "original",
    "swin_hugging_face.bin": "hugging_face",
}
"""Made with timm 1.0.31 and transformers 5.23; Microsoft's names for timm's weights. Outputs are in swin_taps.npz."""


def image() -> np.ndarray:
    i = np.arange(128, dtype=np.float64)
    planes = [np.sin(0.1 * (c + 1) * i[:, None] + 0.07 * (c + 2) * i[None] ** 1.1) for c in range(3)]
    return np.stack(planes, axis=-1).astype(np.float32)[None]


@pytest.fixture(scope="module")
def run():
    shapes = weights.abstract(SWIN)

    def taps(leaves, images):
        return Swin(SWIN).apply({"params": traverse_util.unflatten_dict(leaves, sep="/")}, images)

    call = compiled(taps, shapes, image())
    return lambda leaves: call({path: leaves[path] for path in shapes}, image())


@pytest.mark.parametrize("file", FILES)
def test_outputs_are_the_other_librarys(file, run):
    leaves = weights.load_backbone(str(DATA / file), SWIN)
    assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}
    expected = arrays("swin_taps.npz")
    for i, tap in enumerate(run(leaves)):
        theirs = expected[f"{FILES[file]}/tap{i}"]
        np.testing.assert_allclose(np.asarray(tap).reshape(theirs.shape), theirs, atol=1e-4)


def test_all_namings_of_one_model_agree():
    timm, original = (
        weights.load_backbone(str(DATA / f"swin_{f}"), SWIN) for f in ("timm.safetensors", "microsoft.pth")
    )
    for path, leaf in timm.items():
        np.testing.assert_array_equal(leaf, original[path])


@pytest.mark.parametrize("file", FILES)
def test_the_shape_is_read_off_the_weights(file):
    tensors = read(DATA / file)[0]
    assert weights.infer(tensors) == SWIN


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone."])
def test_a_common_prefix_is_seen_through(prefix):
    tensors = read(DATA / "swin_microsoft.pth")[0]
    family, bare = weights.recognise({prefix + key: x for key, x in tensors.items()}, "x.pth")
    assert family.name == "Microsoft"
    assert bare.keys() == tensors.keys()


def test_the_official_tiny_checkpoint_by_its_published_names():
    names = json.loads((DATA / "mtlora_checkpoint_names.json").read_text())["official_swin_tiny_keys"]
    state_dict = {name: np.zeros(shape, np.float32) for name, shape in names.items()}
    assert weights.infer(state_dict) == swin("tiny")
    assert (
        weights.from_state_dict(state_dict, swin("tiny", image_size=448)).keys()
        == weights.abstract(swin("tiny")).keys()
    )


def test_tables_of_another_window_are_resized(run):
    tensors = dict(read(DATA / "swin_microsoft.pth")[0])
    spec = SwinSpec(**{**vars(SWIN), "window": 8, "image_size": 256})
    leaves = weights.from_state_dict(tensors, spec)
    name = "layers_1/blocks_1/attn/relative_position_bias_table"
    small = tensors["layers.1.blocks.1.attn.relative_position_bias_table"].astype(np.float64)
    assert leaves[name].shape == (225, 1)
    np.testing.assert_allclose(leaves[name], weights.resize_table(small, (225, 1)), atol=1e-6)
    others = {path for path in leaves if not path.endswith("table")}
    same = weights.from_state_dict(tensors, SWIN)
    assert all(np.array_equal(leaves[path], same[path]) for path in others)


def test_resizing_is_torchs_bicubic():
    golden = np.load(DATA / "mtlora_modules.npz")
    table = golden["relpos_resize/in"].astype(np.float64)
    for window in (23, 7, 3):
        expected = golden[f"relpos_resize/{window}"]
        np.testing.assert_allclose(weights.resize_table(table, expected.shape), expected, atol=1e-12)


def test_our_own_files_read_back(tmp_path):
    leaves = weights.load_backbone(str(DATA / "swin_microsoft.pth"), SWIN)
    path = tmp_path / "x.safetensors"
    head = {"params/norm/scale": np.ones(32, np.float32)}
    safetensors.write(path, {weights.BACKBONE + p: x for p, x in leaves.items()} | head, {"source": "test"})
    again = weights.load_backbone(str(path), SWIN)
    assert all(np.array_equal(again[p], leaves[p]) for p in leaves)
    assert weights.load_weights(str(path), SWIN).keys() == {weights.BACKBONE + p for p in leaves}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8, "heads": (1, 1, 2, 4)}, r"another size: patch_embed.proj.\w+ has shape \(4.*, the model needs \(8"),
        ({"heads": (1, 2, 2, 4)}, r"layers.1.blocks.0.attn.relative_position_bias_table has shape \(49, 1\)"),
        ({"depths": (1, 2, 2, 1)}, r"swin_microsoft.pth lacks layers.2.blocks.1.\S+, .* and \d+ more$"),
        ({"depths": (1, 1, 1, 1)}, r"has keys that the model does not: layers.1.blocks.1.\S+, .* and \d+ more$"),
        ({"absolute_position": True}, r"lacks absolute_pos_embed$"),
    ],
)
def test_a_checkpoint_of_another_shape(changes, message):
    with pytest.raises(UserError, match=message):
        weights.load_backbone(str(DATA / "swin_microsoft.pth"), SwinSpec(**{**vars(SWIN), **changes}))


def test_no_swin_at_all():
    with pytest.raises(UserError, match=r"torch_zip\.pth is not a Swin checkpoint"):
        weights.load_backbone(str(DATA / "torch_zip.pth"), SWIN)


def test_abstract_computes_nothing():
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in weights.abstract(swin("large")).values())


# --- backbones of other libraries, inside checkpoints of their own


def microsoft() -> dict:
    return read(str(DATA / "swin_microsoft.pth"))[0]


def under_names(rows) -> dict:
    """The model of `swin_microsoft.pth` as another library's state dict."""
    return mapping.save(weights.load_backbone(str(DATA / "swin_microsoft.pth"), SWIN), rows)


def test_torchvision_is_read_by_its_own_names():
    state = under_names(weights.TORCHVISION)
    assert {
        "features.0.0.weight",
        "features.0.2.bias",
        "features.1.0.mlp.3.weight",
        "features.2.reduction.weight",
    } <= set(state)
    extra = {
        "norm.weight": np.zeros(8),
        "head.weight": np.zeros((3, 8)),
        "features.1.0.attn.relative_position_index": [0],
    }
    again = weights.from_state_dict(state | extra, SWIN)
    for path, leaf in weights.load_backbone(str(DATA / "swin_microsoft.pth"), SWIN).items():
        np.testing.assert_array_equal(again[path], leaf)
    assert weights.infer(state) == weights.infer(microsoft())


def test_mmsegmentation_is_read_by_its_own_names_and_order_of_channels():
    """Its converter's own rule, written out: an unfolding goes by channel, and right before down."""
    theirs, original = {}, microsoft()
    for key, value in original.items():
        name = key.replace("layers.", "stages.", 1).replace("patch_embed.proj.", "patch_embed.projection.")
        name = name.replace(".attn.", ".attn.w_msa.").replace(".mlp.fc1.", ".ffn.layers.0.0.")
        name = name.replace(".mlp.fc2.", ".ffn.layers.1.")
        if "downsample.reduction" in name:
            out, wide = value.shape
            value = value.reshape(out, 4, wide // 4)[:, [0, 2, 1, 3]].transpose(0, 2, 1).reshape(out, wide)
        elif "downsample.norm" in name:
            value = value.reshape(4, -1)[[0, 2, 1, 3]].T.reshape(-1)
        theirs[f"backbone.{name}"] = value
    theirs |= {"backbone.norm0.weight": np.zeros(8), "decode_head.conv_seg.weight": np.zeros((2, 8, 1, 1))}
    theirs = {key: value for key, value in theirs.items() if not re.match(r"backbone\.(norm|head)\.", key)}
    again = weights.from_state_dict(theirs, SWIN)
    for path, leaf in weights.load_backbone(str(DATA / "swin_microsoft.pth"), SWIN).items():
        np.testing.assert_array_equal(again[path], leaf)


def test_the_encoder_of_simmim_is_read_without_its_decoder():
    state = {f"encoder.{key}": value for key, value in microsoft().items() if not key.startswith("head")}
    state |= {"encoder.mask_token": np.zeros((1, 1, 8)), "decoder.0.weight": np.zeros((3, 8, 1, 1))}
    again = weights.from_state_dict(state, SWIN)
    for path, leaf in weights.load_backbone(str(DATA / "swin_microsoft.pth"), SWIN).items():
        np.testing.assert_array_equal(again[path], leaf)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a", "a.safetensors"])
def test_a_file_is_read_by_what_it_holds(tmp_path, name):
    shutil.copy(DATA / "swin_microsoft.pth", tmp_path / name)
    leaves = weights.load_weights(str(tmp_path / name), SWIN)
    assert "Microsoft's names" in leaves.where
    assert "relative_position_index" in leaves.where or "norm.weight" in leaves.where

"""Visual tokens against the reference's, in all their variants, and pooling."""

import json

import jax
import numpy as np
import pytest
import vl

from mtlora_jax.image_text.bart_weights import visual_spec
from mtlora_jax.image_text.visual import VisualEmbedding, VisualSpec, cells, pooled

GOLDEN = np.load(vl.DATA / "vl_visual_embedding.npz")
CASES = {
    "indiv": {},
    "sharednorm": {"individual_vis_layer_norm": False},
    "nonorm": {"use_vis_layer_norm": False},
    "noorder": {"use_vis_order_embedding": False},
}
NAMES = {
    "feat_embedding.0.weight": ("features", "kernel"),
    "feat_embedding.0.bias": ("features", "bias"),
    "feat_embedding.1.weight": ("features_norm", "scale"),
    "feat_embedding.1.bias": ("features_norm", "bias"),
    "absolute_vis_pos_embedding.0.weight": ("boxes", "kernel"),
    "absolute_vis_pos_embedding.0.bias": ("boxes", "bias"),
    "absolute_vis_pos_embedding.1.weight": ("boxes_norm", "scale"),
    "absolute_vis_pos_embedding.1.bias": ("boxes_norm", "bias"),
    "layer_norm.weight": ("sum_norm", "scale"),
    "layer_norm.bias": ("sum_norm", "bias"),
}


def case(name):
    """The module, its parameters and the word table."""
    spec = visual_spec({**vl.CONFIG, "downsample": False, **CASES[name]})
    params, words = {}, np.zeros((40, 32), np.float32)
    for key in GOLDEN.files:
        if not key.startswith(f"{name}:param:"):
            continue
        theirs, value = key.split(":")[2], GOLDEN[key]
        if theirs.startswith("obj_order"):
            words = value
        elif theirs.startswith("img_order"):
            params["image_order"] = value
        else:
            module, leaf = NAMES[theirs]
            params.setdefault(module, {})[leaf] = value.T if leaf == "kernel" else value
    return VisualEmbedding(spec, 32), params, words


@pytest.mark.parametrize("name", ["nonorm", "noorder"])
def test_visual_tokens_are_the_reference_s(name):
    module, params, words = case(name)
    features, boxes = (GOLDEN[f"{name}:{of}"][:, None] for of in ("feats", "boxes"))
    out = module.apply({"params": params}, features, boxes, words)
    np.testing.assert_allclose(out, GOLDEN[f"{name}:out"], atol=1e-5)
    if name == "nonorm":
        out = module.apply({"params": params}, features, boxes, words, **two_images(name))
        np.testing.assert_allclose(out, GOLDEN[f"{name}:out_two_images"], atol=1e-5)


def two_images(name):
    return {"image_ids": GOLDEN[f"{name}:img_order_ids"], "object_ids": GOLDEN[f"{name}:obj_order_ids"]}


# The word table in the file is one object of three cases, drawn anew for each and kept as the last had it: what the
# first two computed with is told by their outputs alone.


def test_features_and_boxes_are_normed_apart():
    module, params, words = case("indiv")
    features, boxes = (GOLDEN[f"indiv:{of}"][:, None] for of in ("feats", "boxes"))
    nothing = module.apply({"params": params}, features, boxes, np.zeros_like(words))
    rows = GOLDEN["indiv:out"] - nothing
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    words = np.concatenate([words[: -rows.shape[1]], rows[0][::-1]])
    out = module.apply({"params": params}, features, boxes, words, **two_images("indiv"))
    np.testing.assert_allclose(out, GOLDEN["indiv:out_two_images"], atol=1e-5)


def test_or_their_sum_is():
    module, params, _ = case("sharednorm")
    features, boxes = (GOLDEN[f"sharednorm:{of}"][:, None] for of in ("feats", "boxes"))
    plain = VisualEmbedding(visual_spec({**vl.CONFIG, "downsample": False, "use_vis_layer_norm": False}), 32)
    norm = params.pop("sum_norm")
    unnormed = plain.apply({"params": params}, features, boxes, np.zeros((40, 32), np.float32))
    normed = (GOLDEN["sharednorm:out"] - norm["bias"]) / norm["scale"]
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-5)
    for token in range(normed.shape[1]):
        # Two examples, one unknown word: their sums differ as their features do, up to each one's mean and deviation.
        columns = np.stack([normed[0, token], -normed[1, token], np.ones(32)], axis=1)
        difference = np.asarray(unnormed[0, token] - unnormed[1, token])
        found, *_ = np.linalg.lstsq(columns, difference, rcond=None)
        np.testing.assert_allclose(columns @ found, difference, atol=1e-4)
    assert module.spec.norm == "sum"


def test_gradients_are_the_reference_s():
    module, params, words = case("indiv")
    features, boxes = (GOLDEN[f"indiv:{of}"][:, None] for of in ("feats", "boxes"))
    ids = {"image_ids": GOLDEN["indiv:img_order_ids"], "object_ids": GOLDEN["indiv:obj_order_ids"]}

    def loss(params, words):
        return (module.apply({"params": params}, features, boxes, words, **ids) * GOLDEN["indiv:R"]).sum()

    ours, of_words = jax.grad(loss, argnums=(0, 1))(params, words)
    for theirs, (name, leaf) in NAMES.items():
        if f"indiv:grad:{theirs}" in GOLDEN.files:
            grad = ours[name][leaf]
            np.testing.assert_allclose(grad.T if leaf == "kernel" else grad, GOLDEN[f"indiv:grad:{theirs}"], atol=1e-4)
    np.testing.assert_allclose(ours["image_order"], GOLDEN["indiv:grad:img_order_embedding.weight"], atol=1e-4)
    np.testing.assert_allclose(of_words, GOLDEN["indiv:grad:obj_order_embedding.weight"], atol=1e-4)


@pytest.mark.parametrize("name", ["pool7to6", "pool3to2", "pool6to3", "pool5to2", "pool4to4"])
def test_pooling_is_the_reference_s(name):
    out = GOLDEN[f"{name}:out"]
    np.testing.assert_array_equal(pooled(GOLDEN[f"{name}:feats"][:, None], out.shape[1])[:, 0], out)


def test_two_pictures_are_pooled_apart():
    feats, out = GOLDEN["pool_two_images:feats"], GOLDEN["pool_two_images:feats_out"]
    np.testing.assert_array_equal(pooled(feats.reshape(2, 2, 49, 3), 36).reshape(out.shape), out)


def test_cells_tile_the_picture():
    found = np.asarray(cells(9))
    np.testing.assert_allclose(found[5], [2 / 3, 1, 1 / 3, 2 / 3])
    areas = (found[:, 3] - found[:, 2]) * (found[:, 1] - found[:, 0])
    np.testing.assert_allclose(areas, 1 / 9, rtol=1e-6)
    features, words = np.zeros((1, 2, 4, 3), np.float32), np.zeros((5, 8), np.float32)
    module = VisualEmbedding(VisualSpec(features=3, tokens=4, cells=True), 8)
    params = module.init(jax.random.key(0), features, None, words)
    told = np.broadcast_to(cells(4), (1, 2, 4, 4))
    np.testing.assert_array_equal(
        module.apply(params, features, None, words), module.apply(params, features, told, words)
    )


def test_options_that_are_not_computed_are_refused():
    for key in ("share_vis_lang_layer_norm", "vis_use_transformer"):
        with pytest.raises(ValueError, match=key):
            visual_spec({**vl.CONFIG, key: True})
    with pytest.raises(ValueError, match="pos_dim"):
        visual_spec({**vl.CONFIG, "pos_dim": 5})
    assert visual_spec(json.loads(json.dumps(vl.CONFIG))) == VisualSpec(features=16)

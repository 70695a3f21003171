"""The data transforms: the published preset to the last pixel, and what the default one mends."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.images import transforms
from mtlora_jax.images.transforms import DEFAULT, PUBLISHED, Augmentation
from mtlora_jax.vision.tasks import TASKS, VOID, task

with np.load(Path(__file__).parents[1] / "data" / "mtlora_transforms.npz") as _file:
    GOLDEN = dict(_file)
CASES = sorted({key.rsplit("/", 1)[0] for key in GOLDEN if key.count("/") == 3})
SETS = {"PASCALContext": transforms.pascal, "NYUD": transforms.nyud}
OURS = {"sal": "saliency", "edge": "edges"}
RULES = {name: task(name).transform for name in TASKS}


def train(example, rng, *more, **options):
    return transforms.train(example, RULES, rng, *more, **options)


def evaluate(example, *more):
    return transforms.evaluate(example, RULES, *more)


def settle(example, *more):
    return transforms.settle(example, RULES, *more)


def move(example, augmentation, size, *more):
    return transforms.transform(example, RULES, augmentation, size, *more)


def normalise(image):
    """The reference's last step, which is taken on the device here."""
    return (image.astype(np.float32) / 255 - np.float32(transforms.MEAN)) / np.float32(transforms.STD)


def _example(size=(40, 50), seed=0):
    """A picture of blocks, with every kind of label, void in each, and a person."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 21, (5, 5)), np.ones((size[0] // 5, size[1] // 5))).astype(np.uint8)
    normals = rng.normal(size=(*size, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    labels = {
        "semseg": np.where(blocks == 7, VOID, blocks).astype(np.uint8),
        "human_parts": blocks % 7,
        "saliency": blocks % 2,
        "edges": blocks % 2,
        "normals": np.where(blocks[..., None] == 7, np.float32(VOID), normals),
        "depth": np.where(blocks == 7, np.float32(VOID), 1 + blocks.astype(np.float32)),
    }
    image = np.repeat(12 * blocks[..., None], 3, -1)
    return {
        "image": image,
        "labels": labels,
        "valid": {name: np.bool_(True) for name in labels},
        "id": np.int64(3),
    }


# --- Parity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_published_preset_equals_the_reference(case):
    data, split, seed = case.split("/")
    expected = {key.rsplit("/", 1)[1]: GOLDEN[key] for key in GOLDEN if key.startswith(f"{case}/")}
    image = expected.pop("image").transpose(1, 2, 0)
    labels = {name: GOLDEN[f"raw:{name}"] for name in expected}
    if data == "NYUD":  # fed to the reference with void as class 0, which is what it returns
        labels["semseg"] = np.where(labels["semseg"] == VOID, 0, labels["semseg"])
    labels = {OURS.get(n, n): x if x.dtype == np.uint8 else x.astype(np.float32) for n, x in labels.items()}
    example = {"image": GOLDEN["raw:image"], "labels": labels}
    if split == "train":
        out = train(example, np.random.RandomState(int(seed)), 32, SETS[data], PUBLISHED)
    else:
        out = evaluate(example, 32, PUBLISHED)
    np.testing.assert_allclose(normalise(out["image"]), image, atol=1e-6)
    for name, label in expected.items():
        ours = out["labels"][OURS.get(name, name)]
        label = label.transpose(1, 2, 0) if name == "normals" else label[0]
        np.testing.assert_allclose(ours, label, atol=1e-6 if label.dtype == np.float32 else 0, err_msg=name)


def test_there_are_ten_golden_cases():
    assert len(CASES) == 10


def test_cubic_overshoot_wraps_as_published_and_is_clipped_by_default():
    step = np.repeat(np.uint8([[0] * 4 + [255] * 4] * 8)[..., None], 3, -1)
    example = {"image": step, "labels": {}}
    published = evaluate(example, 16, PUBLISHED)["image"][5, :, 1]
    np.testing.assert_array_equal(published, GOLDEN["wrap/uint8"])
    default = evaluate(example, 16)["image"][5, :, 1]
    np.testing.assert_array_equal(default, np.clip(np.rint(GOLDEN["wrap/resized_float"]), 0, 255))


# --- What the default mends -------------------------------------------------------------------------


def test_labels_beyond_the_border_are_void_by_default_and_zero_as_published():
    example, augmentation = _example(), Augmentation(scale=0.5)
    example["labels"] = {name: label for name, label in example["labels"].items() if name != "human_parts"}
    default = move(example, augmentation, 48)["labels"]
    published = move(example, augmentation, 48, PUBLISHED)["labels"]
    for name in example["labels"]:
        for border in (np.s_[:11], np.s_[-11:], np.s_[:, :11], np.s_[:, -11:]):
            assert np.all(default[name][border] == VOID), name
    for name in ("semseg", "saliency", "edges"):
        assert not published[name][:11].any()
        np.testing.assert_array_equal(default[name][14:-14, 14:-14], published[name][14:-14, 14:-14])


def _ball(y_up):
    """The normals of a ball in the middle of the picture, unknown around it."""
    y, x = (np.mgrid[:65, :65] - 32) / 28
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    normals = np.stack([x, -y if y_up else y, z], -1)
    return np.where(z[..., None] > 0, normals, VOID).astype(np.float32)


@pytest.mark.parametrize(
    "augmentation", [Augmentation(angle=20), Augmentation(flip=True, angle=-13), Augmentation(True, 7, 1.02)]
)
@pytest.mark.parametrize(("preset", "y_up"), [(DEFAULT, True), (PUBLISHED, False)])
def test_normals_turn_with_a_ball_which_looks_the_same_from_every_side(augmentation, preset, y_up):
    """As published, that holds where y points down."""
    ball = _ball(y_up)
    example = {"image": np.zeros((65, 65, 3), np.uint8), "labels": {"normals": ball}}
    inner = (ball[..., 2] > 0.5) & (ball[..., 2] <= 1)

    def degrees_off(preset):
        moved = move(example, augmentation, 65, preset)["labels"]["normals"]
        return np.degrees(np.arccos(np.clip(np.sum(moved * ball, -1)[inner], -1, 1))).max()

    # The published middle, (W/2, H/2) in whole pixels, lies half a pixel from the ball's: 2 degrees.
    assert degrees_off(preset) < 4
    assert degrees_off(replace(preset, y_up=not y_up)) > 10


def test_normals_do_not_leak_into_the_unknown():
    normals = _ball(True)
    example = {"image": np.zeros((65, 65, 3), np.uint8), "labels": {"normals": normals}}
    unknown = (normals == VOID).all(-1)
    default = evaluate(example, 65)["labels"]["normals"]
    np.testing.assert_array_equal((default == VOID).all(-1), unknown)
    big = evaluate(example, 130)["labels"]["normals"]
    np.testing.assert_array_equal((big == VOID).all(-1), np.kron(unknown, np.ones((2, 2), bool)))
    published = evaluate(example, 130, PUBLISHED)["labels"]["normals"]
    assert (published == VOID).all(-1).sum() < (big == VOID).all(-1).sum()


# --- Both presets -----------------------------------------------------------------------------------

augmentations = st.builds(Augmentation, st.booleans(), st.floats(-30, 30), st.floats(0.6, 1.6))


@pytest.mark.parametrize("preset", transforms.PRESETS)
@settings(max_examples=30, deadline=None)
@given(augmentation=augmentations, size=st.integers(8, 70))
def test_any_motion_gives_labels_of_the_same_kind(preset, augmentation, size):
    example = _example()
    out = move(example, augmentation, size, transforms.PRESETS[preset])
    assert out["image"].shape == (size, size, 3)
    assert out["image"].dtype == np.uint8
    for name, label in out["labels"].items():
        before = example["labels"][name]
        assert label.shape == (size, size, *before.shape[2:])
        assert label.dtype == before.dtype
        assert np.all(np.isfinite(label))
    for name in ("semseg", "human_parts", "saliency", "edges"):
        assert set(np.unique(out["labels"][name])) <= {0, VOID, *np.unique(example["labels"][name])}
    normals, depth = out["labels"]["normals"], out["labels"]["depth"]
    void = (normals == VOID).all(-1)
    np.testing.assert_allclose(np.linalg.norm(normals[~void], axis=-1), 1, atol=1e-5)
    near, far = np.float32(1 / augmentation.scale), np.float32(21 / augmentation.scale)
    assert np.all((depth == VOID) | ((depth >= near * 0.999) & (depth <= far * 1.001)))


def _grown(mask):
    """The mask and all within two pixels of it."""
    padded = np.pad(mask, 2)
    return np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).any((-1, -2))


@pytest.mark.parametrize("preset", transforms.PRESETS)
@settings(max_examples=30, deadline=None)
@given(augmentation=augmentations)
def test_labels_move_with_the_image(preset, augmentation):
    """A corner-shaped thing, bright on grey, covers the same pixels in the image and in the label."""
    thing = np.zeros((60, 80), np.uint8)
    thing[12:45, 20:34] = thing[12:24, 20:66] = 1
    image = np.repeat((60 + 100 * thing)[..., None], 3, -1)
    clipped = replace(transforms.PRESETS[preset], clip=True)  # wrapping makes the rim of a dark frame bright
    out = move({"image": image, "labels": {"semseg": thing}}, augmentation, 64, clipped)
    seen, label = out["image"][..., 0] > 110, out["labels"]["semseg"] == 1
    assert label.sum() > 100
    # Nearest and cubic resizing part by up to half a source pixel, so by less than two here.
    assert not np.any(seen & ~_grown(label))
    assert not np.any(label & ~_grown(seen))


@pytest.mark.parametrize("preset", transforms.PRESETS)
def test_images_without_people_have_void_parts(preset):
    example = _example()
    example["labels"] = {"human_parts": np.zeros((40, 50), np.uint8)}
    assert np.all(evaluate(example, 32, transforms.PRESETS[preset])["labels"]["human_parts"] == VOID)
    example["labels"]["human_parts"][10:20, 10:20] = 3
    parts = evaluate(example, 32, transforms.PRESETS[preset])["labels"]["human_parts"]
    assert np.unique(parts).tolist() == [0, 3]


@pytest.mark.parametrize("preset", transforms.PRESETS)
@pytest.mark.parametrize("unknown", [0, VOID])
def test_unknown_depths_and_normals_become_void(preset, unknown):
    towards = np.broadcast_to(np.float32([0, 0, 1]), (6, 6, 3)).copy()
    labels = {"depth": np.full((6, 6), 4, np.float32), "normals": towards}
    labels["depth"][:3] = labels["normals"][:3] = unknown
    example = {"image": np.zeros((6, 6, 3), np.uint8), "labels": labels}
    out = evaluate(example, 6, transforms.PRESETS[preset])["labels"]
    for name, known in (("depth", 4), ("normals", [0, 0, 1])):
        assert np.all(out[name][:3] == VOID)
        np.testing.assert_allclose(out[name][3:] - known, 0, atol=1e-6)


def test_the_rest_of_an_example_passes_and_nothing_is_changed_in_place():
    example, before = _example(), _example()
    out = train(example, np.random.default_rng(0), 32)
    assert out.keys() == example.keys()
    assert out["id"] == 3
    for name, label in before["labels"].items():
        np.testing.assert_array_equal(example["labels"][name], label)
    np.testing.assert_array_equal(example["image"], before["image"])
    still = move({"image": np.zeros((8, 8, 3), np.uint8), "labels": {}}, None, 8)
    assert still["image"].flags.writeable


def test_the_same_generator_state_gives_the_same_example():
    one, two = (train(_example(), np.random.default_rng(5), 32) for _ in range(2))
    np.testing.assert_array_equal(one["image"], two["image"])
    assert not np.array_equal(one["image"], train(_example(), np.random.default_rng(6), 32)["image"])


@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.RandomState])
def test_draws_keep_to_their_ranges(kind):
    rng = kind(0)
    drawn = [transforms.pascal(rng) for _ in range(500)]
    assert -20 <= min(m.angle for m in drawn) < -19 < 19 < max(m.angle for m in drawn) < 20
    assert 0.75 <= min(m.scale for m in drawn) < 0.77 < 1.23 < max(m.scale for m in drawn) < 1.25
    assert 200 < sum(m.flip for m in drawn) < 300
    drawn = [transforms.nyud(rng) for _ in range(100)]
    assert {m.scale for m in drawn} == {1.0, 1.2, 1.5}
    assert {m.angle for m in drawn} == {0.0}
    assert {m.flip for m in drawn} == {True, False}


def test_a_flip_mirrors_everything_and_needs_no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    example = _example((40, 40))
    out = move(example, Augmentation(flip=True), 40)
    np.testing.assert_array_equal(out["image"], example["image"][:, ::-1])
    for name, label in example["labels"].items():
        mirrored = label[:, ::-1] * (np.float32([-1, 1, 1]) if name == "normals" else label.dtype.type(1))
        void = label[:, ::-1] == VOID
        np.testing.assert_allclose(out["labels"][name], np.where(void, VOID, mirrored), atol=1e-6)
    with pytest.raises(UserError, match="resampling needs OpenCV: pip install"):
        evaluate(example, 32)


def test_wrong_examples_are_named():
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\], not uint8 \[4, 6\]"):
        evaluate({"image": image[..., 0], "labels": {}}, 4)
    with pytest.raises(UserError, match=r"not float32"):
        evaluate({"image": image.astype(np.float32), "labels": {}}, 4)
    with pytest.raises(UserError, match=r"semseg: label and image have different sizes, \[4, 5\] and \[4, 6\]"):
        evaluate({"image": image, "labels": {"semseg": np.zeros((4, 5), np.uint8)}}, 4)

"""The dense tasks: losses that void cannot break, metrics by hand, constants and pictures."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.engine import metrics
from mtlora_jax.errors import UserError
from mtlora_jax.vision.tasks import TASKS, VOID, binary, classes, task
from mtlora_jax.vision.tasks import normals as normals_file

TASK = {name: factory() for name, factory in TASKS.items()}
B, S = 6, 8

jit = cache(jax.jit)


@cache
def _loss(name):
    t = TASK[name]
    return jax.jit(jax.value_and_grad(lambda logits, label, valid: t.finish(t.sums(logits, label, valid))))


def _random(t, batch=B, size=S, void=0.2):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(batch, size, size, t.channels)).astype(np.float32)
    if t.name == "normals":
        label = rng.normal(size=(batch, size, size, 3))
        label = label / np.linalg.norm(label, axis=-1, keepdims=True)
    elif t.name == "depth":
        label = rng.uniform(0.5, 9, (batch, size, size))
    else:
        label = rng.integers(0, max(t.channels, 2), (batch, size, size))
    label[rng.random((batch, size, size)) < void] = VOID
    return logits, label.astype(t.label_dtype)


# --- Losses -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TASKS)
def case(request):
    t = TASK[request.param]
    return t, _loss(t.name), jit(t.sums)


def test_void_pixels_and_invalid_images_get_no_gradient(case):
    t, loss, _ = case
    logits, label = _random(t)
    value, grad = loss(logits, label, np.arange(B) != 1)
    void = (label == VOID).reshape(*label.shape[:3], -1).all(-1)
    assert value > 0
    assert not np.any(grad[1])
    assert not np.any(np.asarray(grad)[void])
    assert np.abs(grad[0]).max() > 0


@pytest.mark.parametrize("missing", ["void", "invalid"])
def test_a_batch_without_labels_has_loss_and_gradient_zero(case, missing):
    t, loss, _ = case
    logits, label = _random(t)
    label = np.full_like(label, VOID) if missing == "void" else label
    value, grad = loss(logits, label, np.full(B, missing == "void"))
    assert value == 0
    assert not np.any(grad)


def test_what_invalid_images_hold_changes_nothing(case):
    t, _, sums = case
    logits, label = _random(t)
    valid = np.arange(B) != 2
    other = label.copy()
    other[2] = 1
    for a, b in zip(sums(logits, label, valid).values(), sums(logits, other, valid).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_over_parts_of_a_batch_finish_to_the_loss_of_the_whole(case):
    """Among them the saliency weight, which is the share of positives in the whole batch."""
    t, loss, sums = case
    logits, label = _random(t)
    valid = np.arange(B) != 2
    parts = [sums(logits[i : i + 1], label[i : i + 1], valid[i : i + 1]) for i in range(B)]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    np.testing.assert_allclose(t.finish(added), loss(logits, label, valid)[0], rtol=1e-5)


def test_logits_of_zero_have_a_finite_gradient(case):
    t, loss, _ = case
    logits, label = _random(t)
    value, grad = loss(np.zeros_like(logits), label, np.ones(B, bool))
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))
    assert np.abs(grad).max() < 10


def test_half_precision_logits_are_summed_in_float32(case):
    t, _, sums = case
    logits, label = _random(t)
    half = jnp.asarray(logits, jnp.bfloat16)
    rounded = sums(np.asarray(half.astype(jnp.float32)), label, np.ones(B, bool))
    for a, b in zip(sums(half, label, np.ones(B, bool)).values(), rounded.values(), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


def test_the_loss_falls_as_the_gradient_says(case):
    t, loss, _ = case
    logits, label = _random(t)
    valid = np.ones(B, bool)
    value, grad = loss(logits, label, valid)
    step = 1e-3 / np.linalg.norm(grad)
    lower, _ = loss(logits - step * grad, label, valid)
    np.testing.assert_allclose(value - lower, step * np.sum(np.square(grad)), rtol=0.1)


@pytest.mark.parametrize("name", ["semseg", "human_parts"])
def test_a_label_that_is_no_class_makes_the_loss_nan(name):
    logits, label = _random(TASK[name])
    label[0, 0, 0] = TASK[name].channels
    assert np.isnan(_loss(name)(logits, label, np.ones(B, bool))[0])
    assert np.isfinite(_loss(name)(logits, label, np.arange(B) != 0)[0])


@settings(max_examples=20, deadline=None)
@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=4, max_size=4),
    label=st.lists(st.sampled_from([0, 1, VOID]), min_size=4, max_size=4),
)
def test_binary_losses_by_their_definition(logits, label):
    z, y = np.array(logits), np.array(label)
    counted = y != VOID
    likelihood = np.where(y == 1, -np.logaddexp(0, -z), -np.logaddexp(0, z))
    total = max(counted.sum(), 1)
    for name, weight in (("saliency", (y == 0).sum() / total), ("edges", 0.95)):
        shaped = np.float32(logits).reshape(1, 2, 2, 1), np.uint8(label).reshape(1, 2, 2)
        value, _ = _loss(name)(*shaped, np.ones(1, bool))
        expected = (np.where(y == 1, weight, 1 - weight) * -likelihood * counted).sum() / total
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)


# --- Metrics ----------------------------------------------------------------------------------------


def _metrics(t, logits, label, valid=None):
    valid = np.ones(len(label), bool) if valid is None else valid
    return t.compute(metrics.update(metrics.empty(), jit(t.measure)(logits, label), valid))


def _ideal(t, label):
    """Logits that answer with the label."""
    known = np.where(label == VOID, 0, label)
    if t.name in ("semseg", "human_parts"):
        return 9 * np.eye(t.channels, dtype=np.float32)[known]
    if t.name in ("saliency", "edges"):
        return np.float32(18.0 * known - 9)[..., None]
    return np.float32(known).reshape(*known.shape[:3], -1)


PERFECT = {"semseg": 1, "human_parts": 1, "saliency": 1, "normals": 0, "depth": 0, "edges": 1}


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_scores_perfectly_and_better_than_noise_and_constants(name):
    t = TASK[name]
    noise, label = _random(t)
    perfect = _metrics(t, _ideal(t, label), label)[t.score]
    assert perfect == pytest.approx(PERFECT[name], abs=0.05)
    assert t.score in _metrics(t, noise, label)
    constant = t.constant(label, np.ones(B, bool))
    assert constant.shape == (t.channels,)
    for other in (noise, np.broadcast_to(constant, noise.shape)):
        worse = _metrics(t, other, label)[t.score]
        assert (worse < perfect) == t.higher_is_better


@pytest.mark.parametrize("name", TASKS)
def test_no_pixels_give_no_metric_rather_than_a_perfect_one(name):
    t = TASK[name]
    logits, label = _random(t)
    assert all(np.isnan(v) for v in _metrics(t, logits, np.full_like(label, VOID)).values())
    assert all(np.isnan(v) for v in _metrics(t, logits, label, np.zeros(B, bool)).values())


def test_void_images_do_not_enter_the_saliency_mean():
    t = TASK["saliency"]
    logits, label = _random(t, void=0.0)
    expected = _metrics(t, logits, label, np.arange(B) != 2)
    label[2] = VOID
    assert _metrics(t, logits, label) == pytest.approx(expected)


def test_an_empty_saliency_mask_is_matched_by_an_empty_prediction():
    label = np.zeros((B, S, S), np.uint8)
    assert _metrics(TASK["saliency"], np.full((B, S, S, 1), -9, np.float32), label)["mIoU"] == 1


def test_angles_by_hand():
    """10 and 20 degrees off: mean 15, rmse sqrt(250), half within 11.25, all within 22.5."""
    turn = np.radians([[[10.0, 20.0]]])
    logits = np.stack([np.sin(turn), 0 * turn, np.cos(turn)], -1).astype(np.float32)
    label = np.broadcast_to(np.float32([0, 0, 1]), logits.shape)
    expected = {"mean_angle": 15, "rmse": np.sqrt(250), "mean_angle_v2": 15}
    expected |= {"within_11.25": 0.5, "within_22.5": 1, "within_30": 1}
    assert _metrics(TASK["normals"], 7 * logits, label) == pytest.approx(expected, rel=1e-4)


def test_confusion_by_hand():
    t = task("human_parts", classes=3, names=("a", "b", "c"))
    truth, predicted = np.uint8([[[0, 0, 1, 1, 2, VOID]]]), np.array([[[0, 1, 1, 1, 0, 2]]])
    metrics = _metrics(t, np.eye(3, dtype=np.float32)[predicted], truth)
    expected = {"IoU/a": 1 / 3, "IoU/b": 2 / 3, "IoU/c": 0, "mIoU": 1 / 3}
    assert metrics == pytest.approx(expected)


def test_edge_f_measure_by_hand():
    """From p >= 0.45 to p >= 0.9 the two truths and one other pixel pass: F = 2 * 2 / (2 + 3)."""
    probability, label = np.array([[[0.9, 0.92, 0.93, 0.42]]]), np.uint8([[[1, 0, 1, 0]]])
    logits = np.log(probability / (1 - probability)).astype(np.float32)[..., None]
    assert _metrics(TASK["edges"], logits, label)["maxF"] == pytest.approx(0.8)


LEVELS = np.linspace(0, 1, 7).tolist()
"""Few, so that scores often lie exactly on a threshold."""


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.sampled_from(LEVELS), min_size=9, max_size=9),
    thresholds=st.lists(st.sampled_from(LEVELS), min_size=3, max_size=3, unique=True).map(sorted),
)
def test_threshold_counts_by_their_definition(scores, thresholds):
    scores, thresholds = np.float32(scores).reshape(1, 3, 3), np.float32(thresholds)
    positive, negative = (np.arange(9).reshape(1, 3, 3) % 3 == r for r in range(2))
    count = jit(binary.above)(scores, thresholds, positive, negative)
    reach = scores[..., None] >= thresholds
    np.testing.assert_array_equal(count["hits"][0], (reach & positive[..., None]).sum((0, 1, 2)))
    np.testing.assert_array_equal(count["predicted"][0], (reach & (positive | negative)[..., None]).sum((0, 1, 2)))
    assert count["positives"][0] == positive.sum()


# --- Constants, pictures, registry ------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_no_other_constant_scores_higher(name):
    t = TASK[name]
    _, label = _random(t)
    if name == "normals":
        label = label + np.float32([0, 0, 2])
        label = np.where(label > 200, VOID, label / np.linalg.norm(label, axis=-1, keepdims=True))
    valid = np.arange(B) != 5
    best = t.constant(label, valid)
    rng = np.random.default_rng(1)
    center = best if name in ("normals", "depth") else 0

    def score(constant):
        logits = np.broadcast_to(np.float32(constant), (*label.shape[:3], t.channels))
        return _metrics(t, logits, label, valid)[t.score]

    others = [score(center + rng.normal(size=t.channels)) for _ in range(20)]
    margin = 1e-6 if name != "normals" else 0.3  # degrees: the mean is not quite the spherical median
    assert all(o <= score(best) + margin if t.higher_is_better else o >= score(best) - margin for o in others)


@pytest.mark.parametrize("name", TASKS)
def test_constants_exist_without_a_single_label(name):
    t = TASK[name]
    _, label = _random(t)
    assert np.all(np.isfinite(t.constant(np.full_like(label, VOID), np.ones(B, bool))))
    assert np.all(np.isfinite(t.constant(label, np.zeros(B, bool))))


@pytest.mark.parametrize("name", TASKS)
def test_pictures_of_labels_and_predictions_agree_and_show_void(name):
    t = TASK[name]
    _, label = _random(t, batch=1, size=16, void=0)
    seen = np.asarray(t.decode(_ideal(t, label)))
    assert seen.shape == label.shape
    picture = t.paint(label[0])
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - t.paint(seen[0])).max() <= 1
    label[0, :8] = VOID
    void = t.paint(label[0])
    np.testing.assert_array_equal(void[8:], picture[8:])
    assert {tuple(c) for c in void[:8].reshape(-1, 3)} == {(224, 224, 192), (150, 150, 130)}


def test_predictions_come_in_the_units_of_labels():
    np.testing.assert_allclose(task("normals").decode(np.float32([[0, 3, 4]])), [[0, 0.6, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(task("normals").paint(np.float32([[[0, 0, 1]]])), [[[128, 128, 255]]])
    np.testing.assert_array_equal(task("saliency").decode(np.float32([0])), 0.5)
    np.testing.assert_array_equal(task("saliency").paint(np.array([[0.2]])), [[[51, 51, 51]]])
    assert task("semseg").decode(np.eye(21)[[4]]) == 4


def test_semseg_wears_the_voc_colours():
    picture = task("semseg").paint(np.arange(21, dtype=np.uint8)[None])[0]
    assert picture[[0, 1, 15, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert len({tuple(c) for c in task("semseg", classes=40).paint(np.arange(40)[None])[0]}) == 40


def test_near_is_bright_and_far_is_dark_in_pictures_of_depth():
    light = task("depth", near=1.0, far=16.0).paint(np.float32([[0.0, 1, 4, 16, 99]])).astype(int).sum(-1)[0]
    assert light[0] == light[1] > light[2] > light[3] == light[4]


def test_painting_a_label_that_is_no_class_says_so():
    with pytest.raises(UserError, match=r"human_parts: label 9 is not one of its 7 classes; use 0\.\.6, or 255"):
        task("human_parts").paint(np.full((2, 2), 9))


def test_names_of_classes():
    assert "IoU/person" in _metrics(TASK["semseg"], *_random(TASK["semseg"]))
    assert classes.class_names(2, None, ("a",)) == ("class_0", "class_1")
    with pytest.raises(UserError, match="1 class names for 2 classes"):
        task("semseg", classes=2, names=("a",))


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(UserError, match="there is no task 'sem_seg'; did you mean 'semseg'"):
        task("sem_seg")
    with pytest.raises(UserError, match="choose from semseg, human_parts, saliency, normals, depth, edges"):
        task("xyz")


def test_published_weights_and_channels():
    rows = {name: (t.weight, t.channels) for name, t in ((n, task(n)) for n in TASKS)}
    assert rows == {
        "semseg": (1, 21),
        "human_parts": (2, 7),
        "saliency": (5, 1),
        "normals": (10, 3),
        "depth": (1, 1),
        "edges": (50, 1),
    }


def test_unit_vectors_keep_their_gradient_at_zero():
    jacobian = jax.jacobian(normals_file.unit)(jnp.zeros(3))
    np.testing.assert_allclose(jacobian, np.eye(3), rtol=1e-6)

"""The boundary metric: known cases, and its matching against an assignment solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from mtlora_jax.engine import metrics
from mtlora_jax.vision.tasks import VOID, boundary

H = W = 40
RADIUS = 0.0375 * np.hypot(H, W)  # 2.1 pixels


def line(row: int) -> np.ndarray:
    label = np.zeros((H, W), np.uint8)
    label[row] = 1
    return label


def score(probability, label):
    return boundary.compute(boundary.measure(probability, label, 0.0375))


def test_a_perfect_prediction_scores_1():
    metrics = score(0.8 * line(10), line(10))
    assert metrics["odsF"] == metrics["odsF_precision"] == metrics["odsF_recall"] == 1
    assert metrics["odsF_threshold"] == pytest.approx(0.05)


@pytest.mark.parametrize(("shift", "f"), [(1, 1.0), (2, 1.0), (3, 0.0)])
def test_a_small_distance_is_forgiven(shift, f):
    assert score(line(10 + shift) * 0.9, line(10))["odsF"] == f


def test_a_second_line_is_no_second_hit():
    metrics = score((line(9) + line(11)) * 0.9, line(10))
    assert metrics["odsF_recall"] == 1
    assert metrics["odsF_precision"] == 0.5
    assert metrics["odsF"] == pytest.approx(2 / 3)


def test_a_thick_prediction_is_thinned():
    thick = line(9) + line(10) + line(11)
    assert score(thick * 0.9, line(10))["odsF"] > 0.95


def test_the_best_threshold_is_found():
    noisy = 0.3 * (line(3) + line(25)) + 0.7 * line(10)
    metrics = score(noisy, line(10))
    assert metrics["odsF"] == 1
    assert 0.3 < metrics["odsF_threshold"] <= 0.7


def test_void_neither_predicts_nor_has_to_be_found():
    label = line(10)
    label[:, 20:] = VOID
    probability = line(10) * 0.9
    probability[:, 20:] = 0.9 * line(30)[:, 20:]
    assert score(probability, label)["odsF"] == 1


def test_without_a_true_edge_there_is_no_score():
    assert np.isnan(score(line(3) * 0.9, np.zeros((H, W), np.uint8))["odsF"])


def test_images_add_up():
    a, b = ((line(10) * 0.9, line(10)), (line(30) * 0.9, line(10)))
    total = metrics.merge(boundary.measure(*a, 0.0375), boundary.measure(*b, 0.0375))
    assert boundary.compute(total)["odsF"] == 0.5


points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=14, unique=True)


@given(points, points)
@settings(max_examples=60, deadline=None)
def test_the_matching_is_the_largest(a, b):
    a, b = np.array(a), np.array(b)
    near = cdist(a, b) <= RADIUS
    rows, columns = linear_sum_assignment(~near)
    assert boundary.pairs(a, cKDTree(b), RADIUS) == near[rows, columns].sum()

"""Curves: which panels there are, and that whatever a run recorded can be drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from mtlora_jax.engine.curves import COLUMNS, _averaged, _curves, plot_curves, save_curves


def run(steps, tasks=("b", "a")):
    for step in range(0, steps + 1, 5):
        if step:
            losses = {f"loss/{task}": 2 / step for task in tasks}
            yield {"step": step, "kind": "train", "loss": 3 / step, **losses, "grad_norm": 0.5}
        if step % 10 == 0:
            figures = {f"{task}/{name}": step / 100 for task in tasks for name in ("loss", "miou", "miou/cat")}
            yield {"step": step, "kind": "eval", **figures, "total/loss": 1.0}


def test_panels_share_losses_and_leave_classes_out():
    curves = _curves(run(20))
    assert set(curves) == {"total/loss", "b/loss", "a/loss", "b/miou", "a/miou", "grad_norm"}
    assert curves["a/loss"]["train"] == ([5, 10, 15, 20], [2 / s for s in (5, 10, 15, 20)])
    assert curves["a/loss"]["eval"] == ([0, 10, 20], [0.0, 0.1, 0.2])
    assert curves["total/loss"].keys() == {"train", "eval"}


def test_what_is_no_number_is_left_out():
    records = [{"step": s, "kind": "eval", "a/x": v} for s, v in enumerate([None, 1.0, float("nan"), float("inf")])]
    assert _curves(records) == {"a/x": {"eval": ([1], [1.0])}}


@pytest.mark.parametrize("records", [list(run(20)), list(run(0)), [{"step": 7, "kind": "train", "loss": 3.0}]])
def test_draws_from_one_point_on(records):
    picture = plot_curves(records)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    panels = len(_curves(records))
    assert picture.shape[1] == 330 * min(panels, COLUMNS)
    assert picture.shape[0] == 231 * -(-panels // COLUMNS)
    assert picture.std() > 1


def test_nothing_recorded_draws_nothing(tmp_path):
    assert plot_curves([]) is None
    save_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")
    (tmp_path / "empty.jsonl").write_text("")
    save_curves(tmp_path / "empty.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_saves_a_png_and_nothing_else(tmp_path):
    records = list(run(20))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    save_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "curves.png")), plot_curves(records))
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.png"}


def test_averages_keep_the_mean_and_the_last_step():
    steps, values = list(range(1, 1001)), list(np.random.default_rng(0).normal(size=1000))
    fewer, means = _averaged(steps, values)
    assert len(fewer) == 40
    assert fewer[-1] == 1000
    assert np.mean(means) == pytest.approx(np.mean(values))
    assert _averaged([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])

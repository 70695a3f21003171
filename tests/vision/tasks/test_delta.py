"""Δm against the paper's own rows."""

import json

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.vision.tasks import delta, task

TABLE_1 = {  # semseg, human parts, saliency, normals, Δm recomputed from the paper's row
    "decoders only": (65.09, 53.48, 57.46, 20.69, -9.94),
    "full fine-tuning": (67.56, 60.24, 65.21, 16.64, 2.44),
    "MTLoRA r16": (68.19, 58.99, 64.48, 17.03, 1.34),
    "MTLoRA r32": (67.74, 59.46, 64.90, 16.59, 2.14),
    "MTLoRA r64": (67.90, 59.84, 65.40, 16.60, 2.54),
}


@pytest.mark.parametrize("method", TABLE_1)
def test_delta_m_equals_the_published_rows(method):
    tasks = [task(name) for name in delta.PASCAL_SINGLE_TASK]
    *row, expected = TABLE_1[method]
    metrics = {t.name: {t.score: v / (100 if t.higher_is_better else 1)} for t, v in zip(tasks, row, strict=True)}
    assert delta.delta_m(metrics, delta.PASCAL_SINGLE_TASK, tasks) == pytest.approx(expected, abs=0.006)


def test_delta_m_of_the_baseline_is_zero_and_missing_pieces_are_named():
    tasks = [task("semseg"), task("normals")]
    metrics = {"semseg": {"mIoU": 0.6721}, "normals": {"mean_angle": 17.97}}
    assert delta.delta_m(metrics, delta.PASCAL_SINGLE_TASK, tasks) == 0
    with pytest.raises(UserError, match="baseline for task 'depth'"):
        delta.delta_m({"depth": {"rmse": 1.0}}, delta.PASCAL_SINGLE_TASK, [task("depth")])
    with pytest.raises(UserError, match="metrics for task 'semseg'"):
        delta.delta_m({}, delta.PASCAL_SINGLE_TASK, tasks)
    with pytest.raises(UserError, match="at least one task"):
        delta.delta_m({}, {}, [])


def test_baselines_come_from_published_metrics_and_from_runs(tmp_path):
    tasks = [task("semseg"), task("normals")]
    published = delta.read_baseline(("pascal_single_task",), tasks)
    assert published["semseg"] == 0.6721
    run = tmp_path / "single_normals"
    run.mkdir()
    last, best = ({"metrics": {"normals": {"mean_angle": angle}}} for angle in (20.0, 10.0))
    (run / "results.json").write_text(json.dumps({"last": last, "best": best}))
    for place in (run, run / "results.json"):
        mixed = delta.read_baseline(("pascal_single_task", str(place)), tasks)
        assert mixed["normals"] == 20.0
        assert mixed["semseg"] == 0.6721


def test_a_baseline_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a results file nor one of pascal_single_task"):
        delta.read_baseline((str(tmp_path / "nowhere"),), [])
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"not the results\.json of a run"):
        delta.read_baseline((str(tmp_path),), [])

"""What a run found: `results.json`, which evaluation is the best, and the closing table."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlora_jax.engine.workload import Metrics, Workload
from mtlora_jax.files import read_json, write_json
from mtlora_jax.listing import text_table

FILE = "results.json"
MEAN_SCORE = "mean score"


def read(workdir: Path) -> dict[str, Any]:
    """The results so far; empty before the first evaluation."""
    path = workdir / FILE
    return read_json(path) if path.exists() else {}


def write(workdir: Path, results: Mapping[str, Any]) -> None:
    write_json(workdir / FILE, results)


def score(workload: Workload, metrics: Metrics) -> tuple[str, float]:
    """What evaluations are compared by, and its value, the higher the better.

    It is the workload's own (Δm, where a run has baselines), else the mean of the tasks' scores, with a minus where
    lower is better. A score that does not exist (NaN) makes it NaN, which is never the best.
    """
    if workload.best is not None:
        return workload.best, metrics["total"][workload.best]
    signed = [
        metrics[task][objective.score] * (1 if objective.higher_is_better else -1)
        for task, objective in workload.objectives.items()
    ]
    return MEAN_SCORE, sum(signed) / len(signed)


def with_evaluation(
    workload: Workload, results: Mapping[str, Any], step: int, metrics: Metrics, seconds: float
) -> dict[str, Any]:
    """The results with another evaluation in: always the last, and the best if no earlier one has a higher score.

    Args:
      seconds: wall time since the evaluation before.
    """
    name, value = score(workload, metrics)
    last = {"step": step, "score": {name: value}, "metrics": metrics}
    best = results.get("best")
    seconds = round(results.get("seconds", 0.0) + seconds, 1)
    return {
        **results,
        "last": last,
        "best": last if best is None or is_better(last, best) else best,
        "seconds": seconds,
    }


def is_better(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the later evaluation `a` has a score at least as high as that of `b`; one without is never better."""
    a, b = (next(iter(of["score"].values())) for of in (a, b))
    return math.isfinite(a) and (not math.isfinite(b) or a >= b)


def up_to(results: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The results without evaluations of later steps, which a resumed run repeats."""
    return {name: value for name, value in results.items() if not (name in ("last", "best") and value["step"] > step)}


def closing_table(workload: Workload, results: Mapping[str, Any]) -> str:
    """The metrics of every task: of a constant predictor, at step 0, after the last step, at the best step."""
    rows = []
    initial, last, best = (results[name]["metrics"] for name in ("initial", "last", "best"))
    for task, objective in workload.objectives.items():
        for metric, value in last[task].items():
            if "/" in metric:  # one of many classes; results.json has them
                continue
            constant = results["constant"][task].get(metric)
            arrow = ("up" if objective.higher_is_better else "down") if metric == objective.score else ""
            rows.append((task, metric, arrow, constant, initial[task][metric], value, best[task][metric]))
    for metric in last["total"]:
        rows.append(("total", metric, "", None, *(m["total"].get(metric) for m in (initial, last, best))))
    steps = [results[name]["step"] for name in ("last", "best")]
    header = ("task", "metric", "better", "constant", "step 0", f"last ({steps[0]})", f"best ({steps[1]})")
    by = next(iter(results["best"]["score"]))
    return f"{text_table(header, rows)}\n\nthe best step is the one with the highest {by}"

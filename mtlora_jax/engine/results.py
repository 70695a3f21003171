"""What a run found: `results.json`, which evaluation is the best, and the closing table."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mtlora_jax.engine.workload import Metrics, Workload
from mtlora_jax.errors import UserError
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


def score(workload: Workload, metrics: Metrics, by: str = "") -> tuple[str, float]:
    """What evaluations are compared by, and its value, the higher the better: with a minus where lower is better.

    A score that does not exist (NaN) is never the best, nor is a mean that one goes into.

    Args:
      by: see `config.Train.best`.

    Raises:
      UserError: there is no such metric.
    """
    # Runs of a sweep have been compared by it already, each by its own tasks.
    by = (not workload.independent and by) or workload.best or "mean"
    signed = {
        task: metrics[task][objective.score] * (1 if objective.higher_is_better else -1)
        for task, objective in workload.objectives.items()
    }
    if by == "mean":
        return MEAN_SCORE, sum(signed.values()) / len(signed)
    if by == "loss":
        return "negative total loss", -metrics["total"]["loss"]
    known = signed | dict(metrics["total"])
    if by not in known:
        raise UserError(f"train.best: there is no {by}: there are mean, {', '.join(known)}")
    return by, known[by]


def with_evaluation(
    results: Mapping[str, Any], step: int, metrics: Metrics, score: tuple[str, float], seconds: float
) -> dict[str, Any]:
    """The results with another evaluation in: always the last, and the best if no earlier one has a higher score. One
    without a score is never the best, and one that was compared by another metric is so no longer.

    Args:
      score: see `score`.
      seconds: wall time since the evaluation before.
    """
    name, value = score
    last = {"step": step, "score": {name: value}, "metrics": metrics}
    found = {**results, "last": last, "seconds": round(results.get("seconds", 0.0) + seconds, 1)}
    before = results.get("best", {}).get("score", {}).get(name)
    if math.isfinite(value) and (before is None or value >= before):
        return {**found, "best": last}
    if before is None:
        found.pop("best", None)
    return found


def up_to(results: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The results without what later steps found, which a resumed run repeats."""
    found = {name: value for name, value in results.items() if not (name in ("last", "best") and value["step"] > step)}
    if "stopped" in found:
        found["stopped"] = {name: at for name, at in found["stopped"].items() if at <= step}
    return found


def narrowed(workload: Workload, results: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Sequence[str]]:
    """The results with objectives in `stopped` that an evaluation after this step found hopeless, and their names; none
    where there was no evaluation, or it has had its say."""
    stopped = results.get("stopped", {})
    if results.get("last", {}).get("step") != step or step in stopped.values():
        return dict(results), ()
    if not (names := workload.hopeless(results["last"]["metrics"], stopped)):
        return dict(results), ()
    return {**results, "stopped": {**stopped, **dict.fromkeys(names, step)}}, names


def mean_and_deviation(values: Sequence[float | None]) -> str:
    """The mean of the same of several runs, with the standard deviation of more than one; a dash without any."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return f"{fmean(there):.3f}" + (f" ± {stdev(there):.3f}" if len(there) > 1 else "")


def closing_table(workload: Workload, results: Mapping[str, Any]) -> str:
    """The metrics of every task: of a constant predictor, at step 0, after the last step, at the best step."""
    if workload.closing is not None:
        return workload.closing(results)
    rows = []
    shown = ("last", "best") if "best" in results else ("last",)
    initial, last = results["initial"]["metrics"], results["last"]["metrics"]
    evaluated = [results[name]["metrics"] for name in shown]
    for task, objective in workload.objectives.items():
        for metric in last[task]:
            if "/" in metric:  # one of many classes; results.json has them
                continue
            constant = results["constant"][task].get(metric)
            arrow = ("up" if objective.higher_is_better else "down") if metric == objective.score else ""
            rows.append((task, metric, arrow, constant, initial[task][metric], *(m[task][metric] for m in evaluated)))
    for metric in last["total"]:
        rows.append(("total", metric, "", None, *(m["total"].get(metric) for m in (initial, *evaluated))))
    header = ("task", "metric", "better", "constant", "step 0", *(f"{n} ({results[n]['step']})" for n in shown))
    by = next(iter(results[shown[-1]]["score"]))
    words = "the best step is the one with the highest" if "best" in results else "no step is the best: none has a"
    return "\n".join([text_table(header, rows), "", f"{words} {by}", *workload.notes])

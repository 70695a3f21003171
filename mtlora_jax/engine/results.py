"""What a run found: `results.json`, and the table it closes with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlora_jax.engine.evaluate import Figures
from mtlora_jax.engine.tables import text_table
from mtlora_jax.engine.workload import Workload
from mtlora_jax.files import read_json, write_json

FILE = "results.json"


def read(workdir: Path) -> dict[str, Any]:
    """The results so far; empty before the first evaluation."""
    path = workdir / FILE
    return read_json(path) if path.exists() else {}


def write(workdir: Path, results: Mapping[str, Any]) -> None:
    write_json(workdir / FILE, results)


def note(results: Mapping[str, Any], step: int, figures: Figures, seconds: float) -> dict[str, Any]:
    """The results with another evaluation in: always the last, and the best by total loss, apart from each other.

    Args:
      seconds: wall time since the evaluation before.
    """
    last = {"step": step, "figures": figures}
    best = results.get("best")
    is_best = best is None or figures["total"]["loss"] < best["figures"]["total"]["loss"]
    seconds = round(results.get("seconds", 0.0) + seconds, 1)
    return {**results, "last": last, "best": last if is_best else best, "seconds": seconds}


def after(results: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The results as they stood at a step: evaluations that a resumed run will repeat are forgotten."""
    return {name: value for name, value in results.items() if not (name in ("last", "best") and value["step"] > step)}


def closing_table(workload: Workload, results: Mapping[str, Any]) -> str:
    """The figures of every task: of a constant predictor, at step 0, after the last step, at the best step."""
    rows = []
    initial, last, best = (results[name]["figures"] for name in ("initial", "last", "best"))
    for task, objective in workload.objectives.items():
        for figure, value in last[task].items():
            if "/" in figure:  # one of many classes; results.json has them
                continue
            constant = results["constant"][task].get(figure)
            arrow = ("up" if objective.higher_is_better else "down") if figure == objective.score else ""
            rows.append((task, figure, arrow, constant, initial[task][figure], value, best[task][figure]))
    for figure in last["total"]:
        rows.append(("total", figure, "", None, *(f["total"].get(figure) for f in (initial, last, best))))
    steps = [results[name]["step"] for name in ("last", "best")]
    header = ("task", "figure", "better", "constant", "step 0", f"last ({steps[0]})", f"best ({steps[1]})")
    return text_table(header, rows)

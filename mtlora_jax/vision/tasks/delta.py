"""Δm: how much better than one network per task, in percent, averaged over the tasks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.vision.tasks.task import Task

PASCAL_SINGLE_TASK = {"semseg": 0.6721, "human_parts": 0.6193, "saliency": 0.6235, "normals": 17.97}
"""The authors' single-task Swin-T on PASCAL-Context (MTLoRA, Table 1); normals in degrees."""
NYUD_SINGLE_TASK = {"semseg": 0.4265, "depth": 0.60, "normals": 22.83}
"""Single-task Swin-T on NYUDv2 as a later paper restates them (a secondary source); metres, degrees."""
PUBLISHED = {"pascal_single_task": PASCAL_SINGLE_TASK, "nyud_single_task": NYUD_SINGLE_TASK}

Metrics = Mapping[str, Mapping[str, float]]


def read_baseline(places: Sequence[str], tasks: Iterable[Task]) -> dict[str, float]:
    """`{task: score}` from several places, later ones over earlier ones.

    Args:
      places: names of `PUBLISHED` metrics, results files of runs, or their work directories (single-task runs bring
        one task each); a run counts with its last evaluation, never its best.
      tasks: whose scores are taken.

    Raises:
      UserError: a place is neither, or its file is not a results file.
    """
    found = {}
    for place in places:
        found |= PUBLISHED[place] if place in PUBLISHED else _stored(Path(place), tasks)
    return found


def _stored(path: Path, tasks: Iterable[Task]) -> dict[str, float]:
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"baseline {path} is neither a results file nor one of {', '.join(PUBLISHED)}")
    try:
        metrics = read_json(path)["last"]["metrics"]
        return {task.name: float(metrics[task.name][task.score]) for task in tasks if task.name in metrics}
    except (KeyError, TypeError):
        raise UserError(f"baseline {path} is not the results.json of a run that came to its last step") from None


def delta_m(metrics: Metrics, baseline: Mapping[str, float], tasks: Iterable[Task]) -> float:
    """Δm = 100/T Σ ± (M - B) / B, the sign positive where higher is better, as in the paper.

    Args:
      metrics: `{task: {metric: value}}`, as `Task.compute` returns them.
      baseline: `{task: score}` of single-task networks, in the same units.
      tasks: the tasks to average over.

    Raises:
      UserError: a task has no metrics, or no baseline other than 0.
    """
    gains = []
    for task in tasks:
        if task.name not in metrics or not baseline.get(task.name):
            missing = "metrics" if task.name not in metrics else "baseline"
            raise UserError(f"Δm needs {missing} for task {task.name!r}; add them or leave the task out")
        gain = metrics[task.name][task.score] / baseline[task.name] - 1
        gains.append(gain if task.higher_is_better else -gain)
    if not gains:
        raise UserError("Δm needs at least one task")
    return 100 * sum(gains) / len(gains)

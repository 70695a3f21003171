"""Finished runs side by side.

python -m mtlora_jax.report DIR [DIR ...] [--json FILE]
    the model before training, and the last scores of every run; runs of one name are one column, mean and standard
    deviation over their seeds. --json also writes every run's scores to a file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from mtlora_jax.cli import fail_cleanly, split_flags
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import results
from mtlora_jax.engine.run import config_of
from mtlora_jax.engine.tables import text_table
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json


def scores(workdir: Path) -> dict:
    """A finished run's name, seed, and scores by task at step 0 and after its last step.

    Raises:
      UserError: the directory holds no finished run.
    """
    config, found = config_of(workdir), results.read(workdir)
    if found.get("finished") is None:
        raise UserError(f"{workdir} holds no finished run: the command that trained it resumes it")
    objectives = workload_of(config).objectives

    def of(moment: str) -> dict[str, float]:
        figures = found[moment]["figures"]
        each = {task: figures[task][objective.score] for task, objective in objectives.items()}
        return each | {name: value for name, value in figures["total"].items() if name != "loss"}

    return {"name": config.name, "seed": config.seed, "start": of("initial"), "end": of("last")}


def table(runs: Sequence[dict]) -> str:
    """Tasks down, runs across: the model before training, then every run's last scores."""
    columns = {"step 0": [run["start"] for run in runs]}
    for run in runs:
        columns.setdefault(run["name"], []).append(run["end"])
    tasks = list(dict.fromkeys(task for run in runs for task in run["end"]))
    header = ["task", *(f"{name} ({len(column)})" for name, column in columns.items())]
    return text_table(header, [[task, *(spread(column, task) for column in columns.values())] for task in tasks])


def spread(column: Sequence[dict], task: str) -> str:
    values = [scores[task] for scores in column if task in scores]
    if not values:
        return "-"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


@fail_cleanly()
def main(argv: Sequence[str]) -> None:
    flags, folders = split_flags(argv, ("json",), ("help",))
    if flags["help"] or not folders:
        print(__doc__)
        return
    runs = [scores(Path(folder)) for folder in folders]
    print(table(runs))
    if flags["json"]:
        write_json(Path(flags["json"]), runs)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Finished runs side by side.

python -m mtlora_jax.report DIR [DIR ...] [--step best|last] [--json FILE] [--init_from=DIR ...]
    the model before training, and the scores of every run at its last or its best step; runs of one name are one
    column, mean and standard deviation over their seeds. --json also writes every run's scores to a file.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, override, split_flags
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import process, results
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.sweep import Swept
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json
from mtlora_jax.listing import text_table


def scores(workdir: Path, step: str = "last", arguments: Sequence[str] = ()) -> list[dict]:
    """Name, seed, and scores by task at step 0 and at its last or best step, of a finished run; or of every run of a
    sweep, named by what it differs in beside the seed.

    Raises:
      UserError: the directory holds no finished run.
    """
    run, found = open_run(workdir), results.read(workdir)
    run = run.changed(override(run.config, arguments)) if arguments else run
    if found.get("finished") is None:
        raise UserError(f"{workdir} holds no finished run: the command that trained it resumes it")
    if step not in found:
        raise UserError(f"{workdir} has no best step: no evaluation had a score")
    start, end = found["initial"]["metrics"], found[step]["metrics"]
    if run.config.sweep:
        swept = Swept(run.config, workload_of)
        return [
            {
                "name": slot.run or run.config.name,
                "seed": slot.config.seed,
                "start": swept.standing(start[slot.name]),
                "end": swept.standing(end[slot.name]),
            }
            for slot in swept.slots
        ]
    objectives = run.workload.objectives

    def of(metrics: Mapping) -> dict[str, float]:
        each = {task: metrics[task][objective.score] for task, objective in objectives.items()}
        return each | {name: value for name, value in metrics["total"].items() if name != "loss"}

    return [{"name": run.config.name, "seed": run.config.seed, "start": of(start), "end": of(end)}]


def table(runs: Sequence[dict]) -> str:
    """Tasks down, runs across: the model before training, then every run's scores."""
    columns = {"step 0": [run["start"] for run in runs]}
    for run in runs:
        columns.setdefault(run["name"], []).append(run["end"])
    tasks = list(dict.fromkeys(task for run in runs for task in run["end"]))
    header = ["task", *(f"{name} ({len(column)})" for name, column in columns.items())]
    return text_table(
        header,
        [
            [task, *(results.mean_and_deviation([run.get(task) for run in column]) for column in columns.values())]
            for task in tasks
        ],
    )


@fail_cleanly()
def main(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("json", "step"), ("help",))
    folders = [argument for argument in rest if not argument.startswith("--")]
    arguments = [argument for argument in rest if argument.startswith("--")]
    if flags["help"] or not folders:
        print(__doc__)
        return
    step = flags["step"] or "last"
    if step not in ("best", "last"):
        raise UserError(f"--step takes best or last, not {step}: results are kept of those two")
    process.prepare()
    runs = [one for folder in folders for one in scores(Path(folder), step, arguments)]
    print(table(runs))
    if flags["json"]:
        write_json(Path(flags["json"]), runs)
        print(f"wrote {flags['json']}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Finished runs side by side.

python -m mtlora_jax.report DIR [DIR ...] [--step best|last] [--scored NAME] [--published NAME] [--json FILE]
    the model before training, and the scores of every run at its last or its best step; runs of one name are one
    column, mean and standard deviation over their seeds. --scored generate takes what `eval.py --protocol generate`
    found instead. --published commonsense8 (or csr_mtl9) adds what others published for the same tasks, with their
    sources. --json also writes every run's scores to a file. Keys of the config say what has moved: --init_from=DIR.
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
from mtlora_jax.files import read_json, write_json
from mtlora_jax.listing import text_table
from mtlora_jax.text.published import PROTOCOLS, Result
from mtlora_jax.text.tasks import TASKS


def scores(workdir: str | Path, step: str = "last", arguments: Sequence[str] = ()) -> list[dict]:
    """Name, seed, and scores by task at step 0 and at its last or best step, of a finished run; or of every run of a
    sweep, named by what it differs in beside the seed.

    Raises:
      UserError: the directory holds no finished run.
    """
    run = open_run(workdir)
    found = results.read(run.workdir)
    run = run.changed(override(run.config, arguments)) if arguments else run
    if found.get("finished") is None:
        raise UserError(f"{run} holds no finished run: the command that trained it resumes it")
    if step not in found:
        raise UserError(f"{run} has no best step: no evaluation had a score")
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


def evaluated(workdir: str | Path, protocol: str) -> dict:
    """Name, seed, and scores by task as a protocol found them.

    Raises:
      UserError: the run has not been evaluated by it.
    """
    run = open_run(workdir)
    path = run.workdir / f"evaluation_{protocol}.json"
    if not path.is_file():
        raise UserError(
            f"there is no {run}/{path.name}: python eval.py --workdir {run} --protocol {protocol} writes it"
        )
    metrics = read_json(path)["metrics"]
    each = {task: next(iter(of.values())) for task, of in metrics.items() if task != "total"}
    return {"name": run.config.name, "seed": run.config.seed, "end": each | metrics.get("total", {})}


def table(runs: Sequence[dict], published: Sequence[Result] = ()) -> str:
    """Tasks down, runs across: the model before training, every run's scores, then published ones."""
    columns = {"step 0": [run["start"] for run in runs]} if all("start" in run for run in runs) else {}
    for run in runs:
        columns.setdefault(run["name"], []).append(run["end"])
    tasks = list(dict.fromkeys(task for run in runs for task in run["end"]))
    sources = list(dict.fromkeys(result.source for result in published))
    header = ["task", *(f"{name} ({len(column)})" for name, column in columns.items())]
    header += [f"{result.model} {result.method} [{sources.index(result.source) + 1}]" for result in published]
    rows = [
        [
            task,
            *(results.mean_and_deviation([run.get(task) for run in column]) for column in columns.values()),
            *(f"{result.scores[task] / 100:.3f}" if task in result.scores else "-" for result in published),
        ]
        for task in tasks
    ]
    notes = [f"[{i}] {source}" for i, source in enumerate(sources, 1)]
    return "\n".join([text_table(header, rows), *notes])


def results_of(name: str, runs: Sequence[dict]) -> Sequence[Result]:
    """What has been published for the tasks of these runs.

    Raises:
      UserError: there is no such protocol, or a run has other tasks.
    """
    if name not in PROTOCOLS:
        raise UserError(f"--published {name}: there are {', '.join(PROTOCOLS)}")
    for run in runs:
        own = run["end"].keys() & TASKS.keys()
        if differing := sorted(own ^ set(PROTOCOLS[name].tasks)):
            raise UserError(f"{name} are {', '.join(PROTOCOLS[name].tasks)}: {run['name']} differs in {differing[0]}")
    return PROTOCOLS[name].results


@fail_cleanly()
def main(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("json", "step", "scored", "published"), ("help",))
    folders = [argument for argument in rest if not argument.startswith("--")]
    arguments = [argument for argument in rest if argument.startswith("--")]
    if flags["help"] or not folders:
        print(__doc__)
        return
    step = flags["step"] or "last"
    if step not in ("best", "last"):
        raise UserError(f"--step takes best or last, not {step}: results are kept of those two")
    process.prepare()
    if flags["scored"]:
        if flags["step"]:
            raise UserError("--step and --scored do not go together: eval.py --step says which step it scores")
        runs = [evaluated(folder, flags["scored"]) for folder in folders]
    else:
        runs = [one for folder in folders for one in scores(folder, step, arguments)]
    print(table(runs, results_of(flags["published"], runs) if flags["published"] else ()))
    if flags["json"]:
        write_json(Path(flags["json"]), runs)
        print(f"wrote {flags['json']}")


if __name__ == "__main__":
    main(sys.argv[1:])

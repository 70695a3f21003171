"""Looking at a run again: its config, its checkpoint, its last evaluation."""

from pathlib import Path

from mtlora_jax.config import Config, from_json
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.evaluate import Figures, evaluate
from mtlora_jax.engine.loop import on_devices, resume
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import make_eval_step
from mtlora_jax.engine.tables import text_table
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json, write_json
from mtlora_jax.input.loader import eval_batches


def config_of(workdir: Path) -> Config:
    """The config a workdir was trained with; raises UserError where it holds no run."""
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no config.json (train with --workdir {workdir} first)")
    return from_json(read_json(path))


def trained_variables(config: Config, workload: Workload, workdir: Path, step: int | None = None) -> tuple[int, dict]:
    """`(step, variables)` of a checkpoint, the newest by default, on the mesh of this machine."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    if not checkpoints.steps():
        raise UserError(f"{workdir} holds no checkpoint: the run has not come to its first evaluation")
    begin = start(workload, config, make_mesh(config.mesh), workdir)
    state = resume(checkpoints, begin, step)
    return int(state.step), state.variables(begin.frozen)


def reevaluate(
    config: Config,
    workload: Workload,
    workdir: Path,
    step: int | None = None,
    protocol: str | None = None,
    predictions: Path | None = None,
) -> Figures:
    """Evaluates a checkpoint on the held-out split, prints every figure, and writes `evaluation.json`.

    Args:
      protocol: one of the workload's other ways to score (writes `evaluation_<protocol>.json`); None scores as
        training does.
      predictions: a folder for every prediction, of protocols that write them.

    Raises:
      UserError: no such protocol, or one that writes no predictions.
    """
    if protocol is not None and protocol not in workload.protocols:
        raise UserError(f"no protocol {protocol}: there are {', '.join(workload.protocols) or 'none'}")
    if protocol is None and predictions is not None:
        raise UserError("predictions are written by a protocol: add --protocol native")
    step, variables = trained_variables(config, workload, workdir, step)
    mesh = make_mesh(config.mesh)
    if protocol is not None:
        figures = workload.protocols[protocol](variables, predictions)
        figures = {**figures, "total": workload.overall(figures)}
    else:
        host = eval_batches(workload.source("val"), config.train.eval_batch_size or config.train.batch_size)
        figures = evaluate(
            workload, make_eval_step(workload, mesh), variables, ((b, on_devices(b, mesh)) for b in host)
        )
    name = "evaluation.json" if protocol is None else f"evaluation_{protocol}.json"
    write_json(workdir / name, {"step": step, "protocol": protocol or "network", "figures": figures})
    rows = [(task, name, value) for task in figures for name, value in figures[task].items()]
    print(text_table(("task", "figure", f"step {step}"), rows))
    return figures

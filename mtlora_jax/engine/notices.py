"""What a run says where it goes on from a checkpoint, and where it cannot go on."""

import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from mtlora_jax.config import Config, from_json
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.hosts import each, gathered
from mtlora_jax.engine.log import Log
from mtlora_jax.engine.optim import schedule
from mtlora_jax.errors import UserError
from mtlora_jax.input.protocols import Batches
from mtlora_jax.listing import listed
from mtlora_jax.mirrors import home


def resumed(config: Config, held: Mapping | None, checkpoints: Checkpoints, first: int) -> list[str]:
    """What a resumed run says: where it goes on, and whether the learning rate jumps."""
    if not first or held is None:
        return []
    steps = config.train.steps
    where = home(checkpoints.directory) / str(first)
    lines = [f"resumed at step {first} from {where}: {steps - first} of {steps} steps remain"]
    before = from_json(dict(held))
    was, now = (float(schedule(of.optim, of.train.steps)(first)) for of in (before, config))
    if not math.isclose(was, now, rel_tol=1e-6):
        length = before.optim.steps or before.train.steps
        lines.append(
            f"the learning rate of the next step is {now:.3g}; on a schedule of {length} steps it was to be {was:.3g}: "
            f"--optim.steps={length} keeps that one"
        )
    return lines


def saved(workdir: Path, checkpoints: Checkpoints) -> str:
    """Where a run that had to stop goes on."""
    if not (steps := checkpoints.written()):
        return "nothing has been saved yet"
    return f"{home(workdir)} is saved at step {steps[-1]}, and the same command resumes there"


def way_on(workdir: Path, checkpoints: Checkpoints) -> str:
    """What can be done about a run that diverged: what it computes cannot change, what a new one does can."""
    if not (steps := checkpoints.written()):
        return "nothing has been saved: a lower --optim.lr may help"
    return (
        f"a new run may go on from step {steps[-1]}: --init_from={home(workdir)} --workdir=NEW with a lower --optim.lr"
    )


class NotFinite(UserError):
    """A loss is infinite or no number; the state it came from is not to be saved."""


def report(log: Log, step: int, metrics: Mapping, batch: Mapping, batches: Batches, independent: bool = False) -> None:
    """Logs a step.

    Args:
      independent: one finite loss of a task is enough.

    Raises:
      NotFinite: a loss is not; the message names step, tasks and examples, and whether labels or predictions are it.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    ids = np.asarray(batch["id"])
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    alive = independent and any(name.startswith("loss/") and name not in bad for name in values)
    if bad and not alive:
        tasks = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
        labels = batch.get("labels", {})
        finite = [task not in labels or bool(np.isfinite(labels[task]).all()) for task in tasks]
        strange = [task for task, *of in zip(tasks, *map(list, each(bytes(finite))), strict=True) if not all(of)]
        blame = f"labels of {', '.join(strange)} hold numbers that are not" if strange else "the predictions are not"
        ids = gathered(ids)
        ids = ids[ids >= 0]  # where a packed row has fewer examples than another, -1 stands
        sources = [batches.source(int(i)) for i in ids]
        what = f"the loss of {', '.join(tasks)}" if tasks else ", ".join(bad)
        raise NotFinite(f"step {step}: {what} is not finite: {blame}, examples {ids.tolist()}, {listed(sources)}")
    log.step(step, values, ids.tolist())

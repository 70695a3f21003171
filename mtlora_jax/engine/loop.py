"""The training loop, in reading order. Every domain runs it as it is.

A run is a function of its config: batches, dropout and initial weights come from (seed, step), so that training
2k steps, and training k, being killed and resuming for k, end in the same bits.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from mtlora_jax.config import Config, check_resumable, to_json
from mtlora_jax.engine import results as record
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.curves import save_curves
from mtlora_jax.engine.evaluate import evaluate
from mtlora_jax.engine.interrupt import EXIT_CODES, Interrupts
from mtlora_jax.engine.log import Log
from mtlora_jax.engine.mesh import check_batch_size, make_mesh, put_batch
from mtlora_jax.engine.run import check_base
from mtlora_jax.engine.state import Start, State, start
from mtlora_jax.engine.step import make_eval_step, make_train_step
from mtlora_jax.engine.workload import Metrics, Workload
from mtlora_jax.errors import Interrupted, UserError
from mtlora_jax.files import make_workdir, read_json, write_json
from mtlora_jax.images.panels import save_png
from mtlora_jax.input.loader import Loader, prefetched

PICTURED = 4
"""Held-out examples in every picture."""


def train(config: Config, workload: Workload, workdir: Path) -> dict:
    """Trains, or resumes, or reports a finished run.

    Args:
      config: validated.
      workload: its domain's.
      workdir: made if need be. Gets `config.json`, `metrics.jsonl`, `results.json`, `checkpoints/`, `pictures/`,
        `curves.png` and TensorBoard's files.

    Returns:
      The results: metrics of a constant predictor, at step 0, after the last step and at the best step.

    Raises:
      UserError: the workdir cannot be written or holds a run of another config; the loss is not finite.
      Interrupted: Ctrl-C or SIGTERM came; the state has been saved.
    """
    # --- where it lives and runs
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh)
    eval_batch_size = config.train.eval_batch_size or config.train.batch_size
    check_batch_size(eval_batch_size, mesh, "train.eval_batch_size")
    claim(workdir, config)
    results = record.read(workdir)
    if results.get("finished") == config.train.steps:
        return close(workload, workdir, results)

    # --- where it starts
    begin = start(workload, config, mesh, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.train.keep)
    state, frozen = resume(checkpoints, begin), begin.frozen
    step = first = int(state.step)
    results = record.up_to(results, first)

    # --- what it computes and reads
    train_step = make_train_step(workload, begin.optimizer, begin.learning_rate, config.seed, mesh)
    eval_step = make_eval_step(workload, mesh)
    batches, held_out = workload.train_batches(config.train.batch_size), workload.held_out(eval_batch_size)
    meta = {"config": to_json(config), "base": begin.fingerprint}

    def evaluation() -> Metrics:
        metrics = evaluate(workload, eval_step, state.variables(frozen), prefetched(held_out), mesh)
        log.evaluation(step, metrics)
        return metrics

    with Interrupts() as interrupts, Log(workdir, config.train.steps, first, config.train.log_every) as log:
        for notice in begin.notices:
            log.say(notice)

        # --- baselines: a constant predictor, and the model before its first step
        if "initial" not in results:
            results["constant"] = workload.constant()
            results["initial"] = {"step": step, "metrics": evaluation()}
            record.write(workdir, results)

        # --- steps; their metrics are read one step late, so that the devices never wait for the host
        since, pending = time.monotonic(), None
        with Loader(batches, config, first) as loader:
            for step, batch in loader.until(config.train.steps):
                state, metrics = train_step(state, frozen, put_batch(batch, mesh))
                if pending is not None:
                    report(log, *pending)
                pending = step, metrics, batch["id"]

                evaluates = step == config.train.steps or due(step, config.train.eval_every)
                stopped = interrupts.received
                if evaluates or stopped or due(step, config.train.checkpoint_every):
                    # Nothing is saved before this step's metrics are seen finite.
                    report(log, *pending)
                    pending, score = None, None
                    if evaluates:
                        held_out_metrics = evaluation()
                        _, score = record.score(workload, held_out_metrics)
                        seconds, since = time.monotonic() - since, time.monotonic()
                        results = record.with_evaluation(workload, results, step, held_out_metrics, seconds)
                        record.write(workdir, results)
                    checkpoints.save(step, items(state), meta, score)
                if stopped and step < config.train.steps:
                    checkpoints.close()
                    raise Interrupted(
                        f"stopped and saved at step {step}; the same command resumes", EXIT_CODES[stopped]
                    )
        checkpoints.close()

        # --- what a finished run leaves
        for name, picture in first_pictures(workload, eval_step, state.variables(frozen), held_out[0], mesh).items():
            save_png(workdir / "pictures" / f"{name}.png", picture)
            log.picture(step, name, picture)
        workload.artifacts(jax.device_get(state.variables(frozen)), workdir, {**meta, "step": step})
    save_curves(workdir / "metrics.jsonl", workdir / "curves.png")
    results["finished"] = config.train.steps
    record.write(workdir, results)
    return close(workload, workdir, results)


def close(workload: Workload, workdir: Path, results: dict) -> dict:
    """Prints a finished run's table, and where everything lies."""
    print(record.closing_table(workload, results))
    names = ("results.json", "metrics.jsonl", "curves.png", "pictures", "checkpoints")
    print(f"wrote {', '.join(name for name in names if (workdir / name).exists())} to {workdir}", file=sys.stderr)
    return results


def claim(workdir: Path, config: Config) -> None:
    """Makes the workdir this config's; raises UserError where it is another's already."""
    make_workdir(workdir)
    path = workdir / "config.json"
    if path.exists():
        check_resumable(read_json(path), to_json(config))
    write_json(path, to_json(config))


def items(state: State) -> dict:
    """A state as the checkpoint's items."""
    return {"trainable": state.trainable, "opt_state": state.opt_state, "mutable": state.mutable}


def resume(checkpoints: Checkpoints, begin: Start, step: int | None = None) -> State:
    """A checkpoint's state, the newest by default; the beginning's where there is none.

    Raises:
      UserError: the checkpoint belongs to another model or another frozen base.
    """
    if not checkpoints.steps():
        return begin.state
    found = checkpoints.restore(items(begin.state), step)
    check_base(found.meta, begin.fingerprint, checkpoints.directory)
    return State(step=jax.device_put(np.int32(found.step), begin.state.step.sharding), **found.state)


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def report(log: Log, step: int, metrics: Mapping, ids: np.ndarray) -> None:
    """Logs a step; raises UserError naming step, tasks and examples where a loss is not finite."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"step {step}: {', '.join(bad)} not finite, on examples {np.asarray(ids).tolist()}; "
            "the last checkpoint is from before (a lower --optim.lr may help)"
        )
    log.step(step, values, np.asarray(ids).tolist())


def first_pictures(workload: Workload, eval_step: Callable, variables, batch: Mapping, mesh: Mesh) -> dict:
    """`{task: picture}` of a host batch's first examples."""
    outputs = eval_step(variables, put_batch(batch, mesh))[-1]
    return workload.pictures(*jax.tree.map(lambda x: np.asarray(x)[:PICTURED], (outputs, dict(batch))))

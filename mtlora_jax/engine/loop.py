"""The training loop, in reading order. Every domain runs it as it is.

A run is a function of its config: batches, dropout and initial weights come from (seed, step), so that training
2k steps, and training k, being killed and resuming for k, end in the same bits.
"""

import math
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
from mtlora_jax.engine.evaluate import Figures, evaluate
from mtlora_jax.engine.interrupt import EXIT_CODES, Interrupts
from mtlora_jax.engine.log import Log
from mtlora_jax.engine.mesh import check_batch_size, make_mesh, put_batch
from mtlora_jax.engine.state import Start, State, start
from mtlora_jax.engine.step import make_eval_step, make_train_step
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import Interrupted, UserError
from mtlora_jax.files import make_workdir, read_json, write_json
from mtlora_jax.images.panels import save_png
from mtlora_jax.input.loader import Loader, eval_batches

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
      The results: figures of a constant predictor, at step 0, after the last step and at the best step.

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
        print(record.closing_table(workload, results))
        return results

    # --- where it starts
    begin = start(workload, config, mesh, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.train.keep)
    state, frozen = resume(checkpoints, begin), begin.frozen
    step = first = int(state.step)
    results = record.after(results, first)

    # --- what it computes and reads
    train_step = make_train_step(workload, begin.optimizer, config.seed, mesh)
    eval_step = make_eval_step(workload, mesh)
    source, held_out = workload.source("train"), workload.source("val")
    meta = {"config": to_json(config), "base": begin.fingerprint}

    def look() -> Figures:
        batches = ((batch, on_devices(batch, mesh)) for batch in eval_batches(held_out, eval_batch_size))
        figures = evaluate(workload, eval_step, state.variables(frozen), batches)
        log.figures(step, figures)
        return figures

    with Interrupts() as interrupts, Log(workdir, config.train.steps, first, config.train.log_every) as log:
        # --- what is to be beaten
        if "initial" not in results:
            results["constant"] = workload.constant(source, held_out)
            results["initial"] = {"step": step, "figures": look()}
            record.write(workdir, results)

        # --- steps; metrics are read one step late, so that the devices never wait for the host
        began, pending = time.monotonic(), None
        with Loader(source, config, first) as loader:
            for step, batch in loader.until(config.train.steps):
                state, metrics = train_step(state, frozen, on_devices(batch, mesh))
                if pending is not None:
                    report(log, *pending)
                pending = step, metrics, batch["id"]

                looks = step == config.train.steps or due(step, config.train.eval_every)
                stopped = interrupts.received
                if looks or stopped or due(step, config.train.checkpoint_every):
                    # Nothing is saved before this step's metrics are seen finite.
                    report(log, *pending)
                    figures, pending = look() if looks else None, None
                    if figures is not None:
                        results = record.note(results, step, figures, time.monotonic() - began)
                        began = time.monotonic()
                        record.write(workdir, results)
                    checkpoints.save(step, items(state), meta, figures and -figures["total"]["loss"])
                if stopped and step < config.train.steps:
                    checkpoints.close()
                    raise Interrupted(
                        f"stopped and saved at step {step}; the same command resumes", EXIT_CODES[stopped]
                    )
        checkpoints.close()

        # --- what comes of it
        batch = next(eval_batches(held_out, eval_batch_size))
        for name, picture in first_pictures(workload, eval_step, state.variables(frozen), batch, mesh).items():
            save_png(workdir / "pictures" / f"{name}.png", picture)
            log.picture(step, name, picture)
        workload.artifacts(jax.device_get(state.variables(frozen)), workdir, {**meta, "step": step})
    save_curves(workdir / "metrics.jsonl", workdir / "curves.png")
    results["finished"] = config.train.steps
    record.write(workdir, results)
    print(record.closing_table(workload, results))
    return results


def claim(workdir: Path, config: Config) -> None:
    """Makes the workdir this config's, or finds that it is; raises UserError where it is another's."""
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
    if found.meta["base"] != begin.fingerprint:
        raise UserError(f"{checkpoints.directory} was trained on other frozen weights: their fingerprints differ")
    return State(step=jax.device_put(np.int32(found.step), begin.state.step.sharding), **found.state)


def on_devices(batch: Mapping, mesh: Mesh) -> Mapping:
    """A host batch on the mesh; ids stay behind."""
    return put_batch({name: value for name, value in batch.items() if name != "id"}, mesh)


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
    outputs = eval_step(variables, on_devices(batch, mesh))[-1]
    return workload.pictures(*jax.tree.map(lambda x: np.asarray(x)[:PICTURED], (outputs, dict(batch))))

"""The training loop, in reading order. Every domain runs it as it is.

A run is a function of its config: batches, dropout and initial weights come from (seed, step), so that training
2k steps, and training k, being killed and resuming for k, end in the same bits.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mtlora_jax import mirrors
from mtlora_jax.config import Config, to_json
from mtlora_jax.engine import compiled
from mtlora_jax.engine import results as record
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.claim import claimed, take
from mtlora_jax.engine.curves import save_curves
from mtlora_jax.engine.evaluate import evaluate
from mtlora_jax.engine.flops import Work
from mtlora_jax.engine.hosts import Stops, is_first, on_host, told
from mtlora_jax.engine.interrupt import EXIT_CODES, Interrupts
from mtlora_jax.engine.log import Log
from mtlora_jax.engine.mesh import check_batch_size, make_mesh, own_rows, put_batch, put_leaf
from mtlora_jax.engine.notices import NotFinite, report, resumed, saved, way_on
from mtlora_jax.engine.pace import Pace, Trace
from mtlora_jax.engine.process import return_memory
from mtlora_jax.engine.run import check_base
from mtlora_jax.engine.state import Start, State, start, write_base
from mtlora_jax.engine.step import make_eval_step, make_train_step
from mtlora_jax.engine.workload import Metrics, Workload
from mtlora_jax.errors import Interrupted, UserError, one_line
from mtlora_jax.images.panels import save_png
from mtlora_jax.input.loader import Loader
from mtlora_jax.listing import listed

PICTURED = 4
"""Held-out examples in every picture."""


def train(config: Config, workload: Workload, workdir: str | Path, profile: tuple[int, int] | None = None) -> dict:
    """Trains, or resumes, or reports a finished run.

    Args:
      config: validated.
      workload: its domain's.
      workdir: made if need be, here or in a store, see `mirrors`. Gets `config.json`, `metrics.jsonl`, `results.json`,
        `checkpoints/`, `pictures/`, `curves.png` and TensorBoard's files.
      profile: the first of the steps to trace and how many; the trace goes to `profile/`.

    Returns:
      The results: metrics of a constant predictor, at step 0, after the last step and at the best step.

    Raises:
      UserError: the workdir is not to be had (see `claim.claimed`), a file cannot be read or written, the loss is not
        finite. What could be saved has been.
      Interrupted: a signal came that stops runs; the state has been saved.
    """
    workdir, mesh = mirrors.opened(workdir), make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, parts=config.train.accumulate)
    check_batch_size(config.train.eval_batch_size or config.train.batch_size, mesh, "train.eval_batch_size")
    if profile and profile[0] > config.train.steps:
        raise UserError(f"--profile: step {profile[0]} never comes, the run ends after {config.train.steps}")
    with claimed(workdir, config) as held:
        results = {} if held is None else told(lambda: record.read(workdir))
        if results.get("finished") != config.train.steps:
            results = run(config, workload, workdir, mesh, held, results, profile)
        return close(workload, workdir, results)


def run(
    config: Config,
    workload: Workload,
    workdir: Path,
    mesh: Mesh,
    held: Mapping | None,
    results: Mapping,
    profile: tuple[int, int] | None,
) -> dict[str, Any]:
    """The steps that a run lacks.

    Args:
      held: the config of what the workdir holds; None for nothing.
      results: those so far.
      profile: see `train`.
    """
    # --- what it reads, which is sooner found missing than a model is made
    batches = workload.train_batches(config.train.batch_size)
    held_out = workload.held_out(config.train.eval_batch_size or config.train.batch_size)

    # --- where it starts
    begin = start(workload, config, mesh, None if held is None else workdir)
    checkpoints = Checkpoints(mirrors.checkpoints(workdir), keep=config.train.keep)
    state, frozen = resume(checkpoints, begin), begin.frozen
    step = first = int(state.step)
    results = record.up_to(results, first)
    if due(first, config.train.eval_every):  # of a run that ended there, and now goes on
        results, _ = record.narrowed(workload, results, first)
    if first > config.train.steps:
        raise UserError(
            f"{mirrors.home(workdir)} has done {first} steps already: "
            "give more with --train.steps, or another --workdir"
        )

    # --- what it computes
    def step_without(stopped: Collection[str]) -> tuple[Callable, Work]:
        going, optimizer = workload, begin.optimizer
        if stopped:
            going = workload.without(stopped)
            optimizer = going.optimizer(config)
        step = make_train_step(going, optimizer, begin.learning_rate, config.seed, mesh, config.train.accumulate)
        return step, Work(step, mesh)

    train_step, work = step_without(results.get("stopped", ()))
    eval_step = make_eval_step(workload, mesh)
    meta = {"config": to_json(config), "base": begin.fingerprint}

    def evaluation() -> Metrics:
        metrics = evaluate(workload, eval_step, state.variables(frozen), held_out, mesh)
        log.evaluation(step, metrics)
        return metrics

    def scored(results: Mapping) -> tuple[tuple[str, float], dict]:
        nonlocal since
        metrics = evaluation()
        score = record.score(workload, metrics, config.train.best)
        seconds, since = time.monotonic() - since, time.monotonic()
        return score, record.with_evaluation(results, step, metrics, score, seconds)

    def save(by: str = "", score: float | None = None) -> None:
        if is_first():
            take(workdir, config)
            record.write(workdir, results)
        if held is None and begin.homeless:
            write_base(workdir, frozen)
        checkpoints.wait()  # so that what is sent is whole
        mirrors.send()
        checkpoints.save(step, items(state), meta, score, by)

    first_record = -1 if held is None else first
    with (
        Interrupts() as interrupts,
        Log(workdir, config.train.steps, first_record, config.train.log_every) as log,
        Loader(batches, config, first, own_rows(config.train.batch_size, mesh)) as loader,
        Pace(config.train.patience, work.rate) as pace,
        Trace(profile, workdir / "profile") as trace,
    ):
        for notice in (*begin.notices, *resumed(config, held, checkpoints, first)):
            log.say(notice)

        # --- baselines: a constant predictor, and the model before its first step
        if "initial" not in results:
            results["about"] = workload.about()
            results["constant"] = workload.constant()
            results["initial"] = {"step": step, "metrics": evaluation()}
            record.score(workload, results["initial"]["metrics"], config.train.best)

        # --- steps; their metrics are read one step late, so that the devices never wait for the host
        since, pending, stops = time.monotonic(), None, Stops(mesh)
        try:
            for step, batch in pace.steps(loader.until(config.train.steps)):
                trace.before(step)
                placed = put_batch(batch, mesh)
                pace.computes(work(state, frozen, placed))
                state, metrics = train_step(state, frozen, placed)
                if step == first + 1:
                    jax.block_until_ready(metrics)
                    return_memory()
                    log.say(f"first step: {compiled.COUNT.words()}")
                    pace.restart()
                elif due(step, config.train.log_every):
                    log.health(step, pace.health())
                if trace.after(step, metrics):
                    log.say(f"wrote a trace of {profile[1]} steps to {mirrors.home(workdir) / 'profile'}")
                if pending is not None:
                    report(log, *pending, workload.independent)
                pending = step, metrics, batch, batches

                evaluates = step == config.train.steps or due(step, config.train.eval_every)
                stopped = stops.agreed(interrupts.received)
                if evaluates or stopped or due(step, config.train.checkpoint_every):
                    # Nothing is saved before this step's metrics are seen finite.
                    report(log, *pending, workload.independent)
                    pending, score = None, ()
                    if evaluates:
                        score, results = scored(results)
                        if step < config.train.steps:
                            results, names = record.narrowed(workload, results, step)
                            if names:
                                log.say(f"these train no longer: {listed(names)}")
                                train_step, work = step_without(results["stopped"])
                    save(*score)
                    pace.restart()
                if stopped and step < config.train.steps:
                    checkpoints.close()
                    raise Interrupted(
                        f"stopped and saved at step {step}; the same command resumes", EXIT_CODES[stopped]
                    )
            if results.get("last", {}).get("step") != step:  # saved before it could be evaluated
                results = scored(results)[1]
            checkpoints.close()
        except NotFinite as error:
            raise UserError(f"{error}; {way_on(workdir, checkpoints)}") from None
        except (UserError, OSError) as error:
            # A file that cannot be read, a disk that is full: the steps since the last checkpoint need not be lost,
            # unless other processes, who know nothing of it yet, would have to save them too.
            if jax.process_count() > 1:
                raise
            with contextlib.suppress(UserError, OSError):
                if pending is not None:
                    report(log, *pending, workload.independent)
                if step > first:
                    save()
            raise UserError(f"{one_line(error)}; {saved(workdir, checkpoints)}") from None

        # --- what a finished run leaves
        pictures = first_pictures(workload, eval_step, state.variables(frozen), held_out[0], mesh)
        variables = on_host(state.variables(frozen))

        def leave() -> dict[str, Any]:
            for name, picture in pictures.items():
                save_png(workdir / "pictures" / f"{name}.png", picture)
                log.picture(step, name, picture)
            artifacts = workload.artifacts(variables, workdir, {**meta, "step": step})
            save_curves(workdir / "metrics.jsonl", workdir / "curves.png")
            finished = {**results, "artifacts": list(artifacts), "finished": config.train.steps}
            record.write(workdir, finished)
            return finished

        return told(leave)


def close(workload: Workload, workdir: Path, results: dict) -> dict:
    """Prints a finished run's table, and where everything lies."""
    mirrors.send()
    if not is_first():
        return results
    print(record.closing_table(workload, results))
    names = ("results.json", "metrics.jsonl", "curves.png", "pictures", "checkpoints", *results.get("artifacts", ()))
    at = mirrors.home(workdir)
    print(f"wrote {', '.join(name for name in names if (at / name).exists())} to {at}", file=sys.stderr)
    return results


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
    check_base(found.meta, begin.fingerprint, str(mirrors.home(checkpoints.directory)))
    return State(step=put_leaf(np.int32(found.step), begin.state.step.sharding), **found.state)


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def first_pictures(workload: Workload, eval_step: Callable, variables, batch: Mapping, mesh: Mesh) -> dict:
    """`{task: picture}` of a host batch's first examples."""
    outputs = eval_step(variables, put_batch(batch, mesh, whole=True))[-1]
    return workload.pictures(*jax.tree.map(lambda x: np.asarray(x)[:PICTURED], (outputs, dict(batch))))

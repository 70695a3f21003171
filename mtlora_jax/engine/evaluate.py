"""Evaluation: per-example statistics on the device, sums and metrics on the host."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from mtlora_jax.engine.mesh import own_rows, put_batch
from mtlora_jax.engine.metrics import empty, update
from mtlora_jax.engine.step import finish
from mtlora_jax.engine.workload import Metrics, Objective, Workload
from mtlora_jax.input.loader import InOrder, prefetched, stack
from mtlora_jax.input.protocols import Examples, HeldOut

SAMPLED = 64
"""Training examples that a constant predictor is fitted to."""


def evaluate(workload: Workload, eval_step: Callable, variables, held_out: HeldOut, mesh: Mesh) -> Metrics:
    """Every task's metrics over a set, its loss among them as `loss`; the weighted total under `total`.

    The set counts as one batch: statistics are added up before anything is divided, so neither the batch size nor
    padding nor the device count changes a metric.

    Args:
      eval_step: as `step.make_eval_step` makes it.
      held_out: the set. A process reads the rows of its own devices; all of them where statistics are the host's.
    """
    sums: dict[str, dict[str, float]] = {task: {} for task in workload.objectives}
    states = {task: empty() for task in workload.objectives}
    whole = workload.observe is not None
    for batch in prefetched(held_out, rows=None if whole else own_rows(held_out.batch_size, mesh)):
        *found, outputs = eval_step(variables, put_batch(batch, mesh, whole))
        loss_sums, statistics, valid = jax.device_get(found)
        observed = workload.observe(outputs, batch) if whole else {}
        for task in workload.objectives:
            for name, value in loss_sums[task].items():
                sums[task][name] = sums[task].get(name, 0.0) + float(value)
            known = statistics[task] | observed.get(task, {})
            states[task] = update(states[task], known, valid[task])
    losses = {task: float(value) for task, value in finish(workload, sums).items()}
    total = losses.pop("loss")
    metrics = {
        task: {"loss": losses[task], **objective.compute(states[task])}
        for task, objective in workload.objectives.items()
    }
    return {**metrics, "total": {"loss": total, **workload.overall(metrics)}}


def constant_metrics(
    objectives: Mapping[str, Objective],
    measure: Callable,
    outputs_of: Callable,
    train: Examples,
    held_out: Examples,
) -> Metrics:
    """The metrics of a predictor that says the same everywhere: the baseline of every model.

    Args:
      measure: a workload's.
      outputs_of: `batch of training examples -> outputs` with a leading axis of 1, what it always says.
      train: training examples, the first of which it is fitted to.
      held_out: examples it is scored on.
    """
    outputs = outputs_of(stack([train[i] for i in range(min(SAMPLED, len(train)))]))
    measure = jax.jit(measure)
    states = {task: empty() for task in objectives}
    batches: Sequence[dict] = InOrder(held_out, min(SAMPLED, len(held_out)))
    for i in range(len(batches)):
        batch = batches[i]
        B = len(next(iter(batch["valid"].values())))
        tiled = jax.tree.map(lambda x, B=B: np.broadcast_to(x, (B, *x.shape[1:])), outputs)
        statistics = jax.device_get(measure(tiled, batch))
        for task in objectives:
            states[task] = update(states[task], statistics[task], batch["valid"][task])
    return {task: objective.compute(states[task]) for task, objective in objectives.items()}

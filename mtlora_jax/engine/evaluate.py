"""Evaluation: per-example statistics on the device, sums and figures on the host."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from mtlora_jax.engine import metrics
from mtlora_jax.engine.step import finish
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.input.loader import Source, eval_batches, stack

Figures = dict[str, dict[str, float]]

SAMPLED = 64
"""Training examples that a constant predictor is fitted to."""


def evaluate(workload: Workload, eval_step: Callable, variables, batches: Iterable[tuple[Mapping, Mapping]]) -> Figures:
    """Every task's figures over a set, its loss among them as `loss`; the weighted total under `total`.

    The set counts as one batch: statistics are added up before anything is divided, so neither the batch size nor
    padding nor the device count changes a figure.

    Args:
      batches: pairs of a host batch (for its `valid`) and the same batch on the devices.
    """
    sums: dict[str, dict[str, float]] = {task: {} for task in workload.objectives}
    states = {task: metrics.empty() for task in workload.objectives}
    for host, batch in batches:
        loss_sums, statistics = jax.device_get(eval_step(variables, batch)[:2])
        for task in workload.objectives:
            for name, value in loss_sums[task].items():
                sums[task][name] = sums[task].get(name, 0.0) + float(value)
            states[task] = metrics.update(states[task], statistics[task], host["valid"][task])
    losses = {task: float(value) for task, value in finish(workload, sums).items()}
    total = losses.pop("loss")
    figures = {
        task: {"loss": losses[task], **objective.compute(states[task])}
        for task, objective in workload.objectives.items()
    }
    return {**figures, "total": {"loss": total, **workload.overall(figures)}}


def constant_figures(
    objectives: Mapping[str, Objective], measure: Callable, outputs_of: Callable, source: Source, held_out: Source
) -> Figures:
    """The figures of a predictor that says the same everywhere: what a model has to beat.

    Args:
      measure: a workload's.
      outputs_of: `batch of training examples -> outputs` with a leading axis of 1, what it always says.
      source: training examples, the first of which it is fitted to.
      held_out: examples it is scored on.
    """
    outputs = outputs_of(stack([source[i] for i in range(min(SAMPLED, len(source)))]))
    measure = jax.jit(measure)
    states = {task: metrics.empty() for task in objectives}
    for batch in eval_batches(held_out, min(SAMPLED, len(held_out))):
        B = len(next(iter(batch["valid"].values())))
        tiled = jax.tree.map(lambda x, B=B: np.broadcast_to(x, (B, *x.shape[1:])), outputs)
        statistics = jax.device_get(measure(tiled, batch))
        for task in objectives:
            states[task] = metrics.update(states[task], statistics[task], batch["valid"][task])
    return {task: objective.compute(states[task]) for task, objective in objectives.items()}

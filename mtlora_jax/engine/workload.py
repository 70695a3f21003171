"""What a domain hands the engine: one dataclass of functions. The engine knows no more of a domain than this."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from mtlora_jax.config import Config
from mtlora_jax.input.protocols import Batches, HeldOut

Metrics = Mapping[str, Mapping[str, float]]
"""`{task: {metric: value}}`, and what belongs to no single task under `total`."""


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The randomness of a step."""
    return jax.random.fold_in(jax.random.key(seed), step)


@dataclass(frozen=True)
class Objective:
    """One task as the engine sees it: statistics that add up, and how they end in a loss and in metrics.

    Attributes:
      weight: weight of its loss in the total, where the workload has no `total` of its own.
      finish: `{name: scalar sums} -> loss`.
      compute: `{name: float64 sums over examples} -> {metric: float}`.
      score: the metric that stands for the task.
      higher_is_better: the score's direction.
    """

    weight: float
    finish: Callable[[Mapping[str, jax.Array]], jax.Array]
    compute: Callable[[Mapping[str, np.ndarray]], dict[str, float]]
    score: str
    higher_is_better: bool


@dataclass(frozen=True)
class Workload:
    """A domain's part of a run.

    A batch is a dict of arrays with a leading `B` axis, `valid: {task: [B] bool}` and `id` among them.

    Attributes:
      objectives: by task, in the config's order.
      abstract_batch: `batch_size -> ` the batch as `jax.ShapeDtypeStruct`, without `id`.
      init: `seed -> variables`, drawn leaf by leaf from keys of their own.
      load_base: `() -> {path: array} | None`, pretrained leaves that replace drawn ones, or None without any. A mapping
        that reads a leaf when it is asked for also tells its `shape(path)` without reading it.
      forward: `(variables, batch, key or None) -> (outputs, mutated collections)`; with a key it trains.
      sums: `(outputs, batch) -> {task: {name: scalar}}`, additive statistics of every loss.
      measure: `(outputs, batch) -> {task: {name: [B, ...]}}`, per-example statistics of every metric.
      observe: `(outputs, batch) -> ` further statistics of that form, which only the host can tell: scores of decoded
        texts.
      table: (path regex, label) rows for every weight; the labels are `decay`, `no_decay` and `frozen`.
      owners: (path regex, task) rows for leaves that one task alone reads and whose path does not say so.
      axes: (path regex, logical names of trailing axes) rows, by which weights are cut over a mesh; see `sharding`.
      train_batches: `batch_size -> Batches` to train on.
      held_out: `batch_size -> ` the batches of the held-out set in order, as many as `len` says.
      constant: `() -> metrics` of the best predictor that does not look at its input.
      pictures: `(outputs, batch) -> {task: uint8 [H, W, 3]}`: image, truth and prediction.
      artifacts: `(variables on the host, workdir, {"config", "base", "step"}) -> names`, writes what a finished run
        leaves beside what every run does.
      total: `(losses, sums) -> loss`, both by task: what is minimised. The weighted sum of the losses if it is None.
      overall: `metrics -> {metric: value}` of all tasks together, beside the total loss.
      best: what checkpoints are compared by where the config does not say; see `config.Train.best`.
      about: `() -> JSON` of what later commands need to know of the data; kept in `results.json`.
      notes: lines under the table of a finished run, which say what a metric's name does not.
      identity: what tells the frozen weights' model from another one of the same weights; part of the fingerprint.
      protocols: other ways to score a checkpoint: by name, `(variables, folder for predictions or None) -> metrics`.
      optimizer: `config -> ` that of all trainable leaves, where it is not the one that every run has.
      step_key: `(seed, step) -> ` the key, or keys, that `forward` gets.
      independent: the objectives are runs of their own (see `engine.sweep`): there is no one learning rate, and where
        the loss of one is not finite, the others go on.
      closing: `results -> ` the table of a finished run, where it is not the one that every run has.
      hopeless: `(metrics, stopped) -> ` which of the objectives that still train need not go on.
      without: `stopped -> ` the workload that trains the others alone; variables and batches are the same.
    """

    objectives: Mapping[str, Objective]
    abstract_batch: Callable[[int], Any]
    init: Callable[[int], dict]
    load_base: Callable[[], Mapping[str, np.ndarray] | None]
    forward: Callable[..., tuple[Any, dict]]
    sums: Callable[[Any, Mapping], dict[str, dict[str, jax.Array]]]
    measure: Callable[[Any, Mapping], dict[str, dict[str, jax.Array]]]
    table: tuple[tuple[str, str], ...]
    train_batches: Callable[[int], Batches]
    held_out: Callable[[int], HeldOut]
    constant: Callable[[], Metrics]
    observe: Callable[[Any, Mapping], dict[str, dict[str, np.ndarray]]] | None = None
    owners: tuple[tuple[str, str], ...] = ()
    axes: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    pictures: Callable[[Any, Mapping], dict[str, np.ndarray]] = lambda outputs, batch: {}
    artifacts: Callable[[Mapping, Path, Mapping], Sequence[str]] = lambda variables, workdir, meta: ()
    total: Callable[[Mapping[str, jax.Array], Mapping[str, Mapping[str, jax.Array]]], jax.Array] | None = None
    overall: Callable[[Metrics], dict[str, float]] = lambda metrics: {}
    best: str | None = None
    about: Callable[[], dict] = dict
    notes: tuple[str, ...] = ()
    identity: str = ""
    protocols: Mapping[str, Callable[..., Metrics]] = field(default_factory=dict)
    optimizer: Callable[[Config], optax.GradientTransformationExtraArgs] | None = None
    step_key: Callable[[int, jax.Array], jax.Array] = step_key
    independent: bool = False
    closing: Callable[[Mapping[str, Any]], str] | None = None
    hopeless: Callable[[Metrics, Collection[str]], Sequence[str]] = lambda metrics, stopped: ()
    without: Callable[[Collection[str]], "Workload"] | None = None

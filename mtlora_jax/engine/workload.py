"""What a domain hands the engine: one dataclass of functions. The engine knows no more of a domain than this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Objective:
    """One task as the engine sees it: statistics that add up, and how they end in a loss and in figures.

    Attributes:
      weight: of its loss in the total, where the workload has no `total` of its own.
      finish: `{name: scalar sums} -> loss`.
      compute: `{name: float64 sums over examples} -> {figure: float}`.
      score: the figure that stands for the task.
      higher_is_better: its direction.
    """

    weight: float
    finish: Callable[[Mapping[str, jax.Array]], jax.Array]
    compute: Callable[[Mapping[str, np.ndarray]], dict[str, float]]
    score: str
    higher_is_better: bool


@dataclass(frozen=True)
class Workload:
    """A domain's part of a run.

    A batch is a dict of arrays with a leading `B` axis, `valid: {task: [B] bool}` among them.

    Attributes:
      objectives: by task, in the config's order.
      abstract_batch: `batch_size -> ` the batch as `jax.ShapeDtypeStruct`.
      init: `seed -> variables`, drawn leaf by leaf from keys of their own.
      load_base: `() -> {path: array} | None`, pretrained leaves that replace drawn ones, or None without any. A mapping
        that reads a leaf when it is asked for also tells its `shape(path)` without reading it.
      forward: `(variables, batch, key or None) -> (outputs, mutated collections)`; with a key it trains.
      sums: `(outputs, batch) -> {task: {name: scalar}}`, additive statistics of every loss.
      measure: `(outputs, batch) -> {task: {name: [B, ...]}}`, per-example statistics of every metric.
      table: (path regex, label) rows for every weight.
      owners: (path regex, task) rows for the leaves that one task alone reads.
      axes: (path regex, logical names of trailing axes) rows, by which weights are cut over a mesh; see `sharding`.
      source: `split -> ` a random-access source of examples, `train` or `val`.
      constant: `(training source, held-out source) -> figures` of the best predictor that does not look at its input.
      pictures: `(outputs, batch) -> {task: uint8 [H, W, 3]}`: image, truth and prediction.
      artifacts: `(variables on the host, workdir, {"config", "base", "step"})`, writes what a finished run leaves.
      total: `(losses, sums) -> loss`, both by task: what is minimised. The weighted sum of the losses if it is None.
      overall: `figures -> {figure: value}` of all tasks together, beside the total loss.
      protocols: other ways to score a checkpoint: by name, `(variables, folder for predictions or None) -> figures`.
    """

    objectives: Mapping[str, Objective]
    abstract_batch: Callable[[int], Any]
    init: Callable[[int], dict]
    load_base: Callable[[], Mapping[str, np.ndarray] | None]
    forward: Callable[..., tuple[Any, dict]]
    sums: Callable[[Any, Mapping], dict[str, dict[str, jax.Array]]]
    measure: Callable[[Any, Mapping], dict[str, dict[str, jax.Array]]]
    table: tuple[tuple[str, str], ...]
    owners: tuple[tuple[str, str], ...]
    source: Callable[[str], Any]
    constant: Callable[[Any, Any], dict[str, dict[str, float]]]
    pictures: Callable[[Any, Mapping], dict[str, np.ndarray]]
    artifacts: Callable[[Mapping, Path, Mapping], None] = lambda variables, workdir, meta: None
    total: Callable[[Mapping[str, jax.Array], Mapping[str, Mapping[str, jax.Array]]], jax.Array] | None = None
    axes: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    overall: Callable[[Mapping[str, Mapping[str, float]]], dict[str, float]] = lambda figures: {}
    protocols: Mapping[str, Callable[..., dict[str, dict[str, float]]]] = field(default_factory=dict)

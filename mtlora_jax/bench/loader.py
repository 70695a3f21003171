"""How fast batches are read, decoded and transformed, and whether a training step has to wait for them."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from mtlora_jax.config import Config
from mtlora_jax.domains import workload_of
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.engine.workload import Workload
from mtlora_jax.input.loader import Loader
from mtlora_jax.input.protocols import Batches


def bench(config: Config, rounds: int = 10, alone: bool = False) -> dict[str, Any]:
    """Times the config's own loader, by itself and, unless `alone`, feeding the config's own step.

    What workers have prepared while nobody asked is read first and not counted.

    Returns:
      images/s in line (in this process, nothing else running) and with the workers; seconds of a step, and the share
      of them in which the devices had nothing to do because the next batch was not there.
    """
    workload = workload_of(replace(config, init_from=None) if hasattr(config, "init_from") else config)
    batches, train = workload.train_batches(config.train.batch_size), config.train
    report: dict[str, Any] = {
        "config": config.name,
        "batch_size": train.batch_size,
        "cores": os.cpu_count(),
        "workers": train.workers,
        "worker_kind": train.worker_kind,
        "images_per_second_in_line": _alone(replace(config, train=replace(train, workers=0)), batches, rounds),
        "images_per_second": _alone(config, batches, rounds),
    }
    if not alone:
        report |= _with_step(config, workload, batches, rounds)
    return report


def _alone(config: Config, batches: Batches, rounds: int) -> float:
    with Loader(batches, config) as loader:
        prepared = loader.until()
        _drain(prepared, config)
        began = time.perf_counter()
        for _ in range(rounds):
            next(prepared)
        return rounds * config.train.batch_size / (time.perf_counter() - began)


def _drain(prepared: Iterator, config: Config) -> None:
    for _ in range(3 * config.train.workers + 1):
        next(prepared)


def _with_step(config: Config, workload: Workload, batches: Batches, rounds: int) -> dict[str, float]:
    mesh = make_mesh(config.mesh)
    begin = start(workload, config, mesh)
    step = make_train_step(workload, begin.optimizer, begin.learning_rate, config.seed, mesh)
    state, waited = begin.state, 0.0
    with Loader(batches, config) as loader:
        prepared = loader.until()
        for warm in range(2 + rounds):
            if warm == 2:
                _drain(prepared, config)
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            _, batch = next(prepared)
            waited += time.perf_counter() - asked
            # The loop reads metrics a step late; waiting for them here makes the devices' idle time visible.
            state, metrics = step(state, begin.frozen, put_batch(batch, mesh))
            jax.block_until_ready(metrics)
        seconds = time.perf_counter() - began
    return {
        "seconds_per_step": seconds / rounds,
        "images_per_second_trained": rounds * config.train.batch_size / seconds,
        "waiting_share": waited / seconds,
    }

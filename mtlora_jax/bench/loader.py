"""How fast batches are read, decoded and transformed, and whether a training step has to wait for them."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from mtlora_jax.config import Config
from mtlora_jax.domains import workload_of
from mtlora_jax.engine.loop import on_devices
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.input.loader import Loader


def bench(config: Config, rounds: int = 10, alone: bool = False) -> dict[str, Any]:
    """Times the config's own loader, by itself and, unless `alone`, feeding the config's own step.

    What workers have prepared while nobody asked is read first and not counted.

    Returns:
      images/s in line (in this process, nothing else running) and with the workers; seconds of a step, and the share
      of them in which the devices had nothing to do because the next batch was not there.
    """
    workload = workload_of(replace(config, init_from=None) if hasattr(config, "init_from") else config)
    source, train = workload.source("train"), config.train
    report: dict[str, Any] = {
        "config": config.name,
        "batch_size": train.batch_size,
        "examples": len(source),
        "cores": os.cpu_count(),
        "workers": train.workers,
        "worker_kind": train.worker_kind,
        "images_per_second_in_line": _alone(replace(config, train=replace(train, workers=0)), source, rounds),
        "images_per_second": _alone(config, source, rounds),
    }
    if not alone:
        report |= _with_step(config, workload, source, rounds)
    return report


def _alone(config: Config, source, rounds: int) -> float:
    with Loader(source, config) as loader:
        batches = loader.until()
        _drain(batches, config)
        began = time.perf_counter()
        for _ in range(rounds):
            next(batches)
        return rounds * config.train.batch_size / (time.perf_counter() - began)


def _drain(batches: Iterator, config: Config) -> None:
    for _ in range(3 * config.train.workers + 1):
        next(batches)


def _with_step(config: Config, workload, source, rounds: int) -> dict[str, float]:
    mesh = make_mesh(config.mesh)
    begin = start(workload, config, mesh)
    step, state = make_train_step(workload, begin.optimizer, config.seed, mesh), begin.state
    waited = 0.0
    with Loader(source, config) as loader:
        batches = loader.until()
        for warm in range(2 + rounds):
            if warm == 2:
                _drain(batches, config)
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            _, batch = next(batches)
            waited += time.perf_counter() - asked
            # The loop reads metrics a step late; waiting for them here makes the devices' idle time visible.
            state, metrics = step(state, begin.frozen, on_devices(batch, mesh))
            jax.block_until_ready(metrics)
        seconds = time.perf_counter() - began
    return {
        "seconds_per_step": seconds / rounds,
        "images_per_second_trained": rounds * config.train.batch_size / seconds,
        "waiting_share": waited / seconds,
    }

"""How a run is doing: what its steps take and wait for, the stacks of one that hangs, a trace of some for a viewer."""

import faulthandler
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from mtlora_jax.engine.hosts import gathered
from mtlora_jax.errors import UserError

T = TypeVar("T")


class Pace:
    """A context that times steps. When none ends for too long, it writes every thread's stack to stderr, and again
    after as long; nothing is ended.

    Args:
      patience: minutes; 0 waits for ever.
      rate: FLOPs that the run's devices can do in a second; 0 where that is not known.
    """

    def __init__(self, patience: float, rate: float = 0.0):
        self._patience, self._rate = patience, rate
        self.restart()

    def restart(self) -> None:
        """What comes next is timed anew: after an evaluation, or a save."""
        self._steps, self._waited, self._flops, self._began = 0, 0.0, 0.0, time.monotonic()

    def computes(self, flops: float) -> None:
        """Says what the step that begins asks for."""
        self._flops += flops

    def steps(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; the time that it takes to get one counts as waiting, that until the next is asked for as a
        step."""
        batches = iter(batches)
        while True:
            if self._patience:
                faulthandler.dump_traceback_later(60 * self._patience, repeat=True, file=sys.__stderr__)
            asked = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            self._steps += 1
            yield batch

    def health(self) -> dict[str, float]:
        """Of the steps since the last call, and then they are forgotten: `seconds` a step, `waiting` the share of them
        that the slowest process waited for its batches, and `slowest` its number where there are many; `mfu`, the share
        of the devices' rate that their multiplications took, those that the backward pass computes again included,
        where the rate is known; `memory`, GiB in use on a device, `memory_peak` and `memory_limit`, where devices tell.

        Called by all processes after the same step.
        """
        elapsed = max(time.monotonic() - self._began, 1e-9)
        shares = gathered(np.array([self._waited / elapsed]))
        found = {"seconds": elapsed / max(self._steps, 1), "waiting": float(shares.max())}
        if len(shares) > 1:
            found["slowest"] = float(shares.argmax())
        if self._flops and self._rate:
            found["mfu"] = self._flops / (elapsed * self._rate)
        stats = jax.local_devices()[0].memory_stats() or {}
        names = {"memory": "bytes_in_use", "memory_peak": "peak_bytes_in_use", "memory_limit": "bytes_limit"}
        self.restart()
        return found | {name: stats[key] / 2**30 for name, key in names.items() if key in stats}

    def __enter__(self) -> "Pace":
        return self

    def __exit__(self, *exception) -> None:
        if self._patience:
            faulthandler.cancel_dump_traceback_later()


class Trace:
    """A context that records some steps for TensorBoard's profiler, Perfetto or XProf.

    Args:
      steps: the first one's number and how many, or None.
      folder: where the trace is written.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self._first, self._count = steps or (0, 0)
        self._folder, self._running = folder, False

    def before(self, step: int) -> None:
        """Called before a step."""
        if self._count and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, outputs: object) -> bool:
        """Called after a step that has given `outputs`; whether it was the last one recorded."""
        if not self._running or step < self._first + self._count - 1:
            return False
        jax.block_until_ready(outputs)
        self._end()
        return True

    def _end(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception) -> None:
        self._end()


def traced_steps(text: str | None) -> tuple[int, int] | None:
    """The first step and the number of steps of `STEP:STEPS`. Raises UserError for anything else."""
    if text is None:
        return None
    first, _, count = text.partition(":")
    if not (first.isdigit() and count.isdigit() and int(first) and int(count)):
        raise UserError(f"--profile={text}: give the first step and how many, such as --profile=10:3")
    return int(first), int(count)

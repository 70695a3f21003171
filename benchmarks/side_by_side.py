"""Times programs in turns, each in a process of its own, so that neither's threads or memory weigh on the other.

A program is made by a module-level function, `make(*args) -> Side`, which is called in its process.
"""

import json
import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Side:
    """One program, compiled and ready.

    Attributes:
      step: runs one step, or a few in a row, to the end and returns seconds a step.
      amount: images or tokens of a step.
      about: FLOPs, bytes, versions: whatever belongs beside the times.
      memory: bytes that it took at most; None reads this process's resident set.
    """

    step: Callable[[], float]
    amount: int
    about: Mapping[str, Any] = field(default_factory=dict)
    memory: Callable[[], int] | None = None


Sides = Mapping[str, tuple[Callable[..., Side], tuple]]
"""By name, `(make, args)`."""


def compare(sides: Sides, rounds: int, apart: bool, path: str | None) -> None:
    """Times all sides, prints the report, and writes it to `path` whenever there is more of it.

    Args:
      sides: the first is ours, and the others' ratios are to it.
      rounds: timed steps of each.
      apart: one side after the other instead of in turns, where a device does not hold all of them.
      path: a JSON file, or None.
    """
    results: dict[str, dict] = {}
    for part in [{name: sides[name]} for name in sides] if apart else [dict(sides)]:
        results |= in_turns(part, rounds)
        report = {
            "command": " ".join(["python", *sys.argv]),
            "sides": results,
            "times_ours": ratios(results, next(iter(sides))),
        }
        if path:
            Path(path).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if path:
        print(f"wrote {path}", file=sys.stderr)


def in_turns(sides: Sides, rounds: int, warm: int = 2) -> dict[str, dict]:
    """Steps all sides in turns.

    Args:
      warm: steps of each before, which are not timed.

    Returns:
      By name: seconds, minimum and median, amount a second at the median, peak memory, and what a side says about
      itself; or `error`, what kept it from running.
    """
    workers = {name: Worker(make, args) for name, (make, args) in sides.items()}
    results: dict[str, dict] = {}
    times: dict[str, list[float]] = {}
    for name, worker in workers.items():
        began = time.perf_counter()
        try:
            worker.ask("make")
            for _ in range(warm):
                worker.ask("step")
        except (RuntimeError, EOFError) as error:
            results[name] = {"error": str(error) or "the process died"}
        else:
            times[name] = []
        print(f"{name}: ready after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for name, seconds in times.items():
            seconds.append(workers[name].ask("step"))
    for name, seconds in times.items():
        amount, about, memory = workers[name].ask("about")
        median = statistics.median(seconds)
        spent = {"seconds_min": min(seconds), "seconds_median": median, "per_second": amount / median}
        results[name] = {**spent, "peak_bytes": memory, **about}
    for worker in workers.values():
        worker.end()
    return results


def ratios(results: Mapping[str, dict], ours: str) -> dict[str, dict[str, float]]:
    """How many times as long each other side takes."""
    of = {name: side for name, side in results.items() if "error" not in side}
    return {
        name: {kind: of[name][f"seconds_{kind}"] / of[ours][f"seconds_{kind}"] for kind in ("min", "median")}
        for name in of
        if ours in of and name != ours
    }


@dataclass(frozen=True)
class Failure:
    """Why a side cannot run, carried between processes."""

    words: str


class Worker:
    """A process that holds one side."""

    def __init__(self, make: Callable[..., Side], args: tuple):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, what: str) -> Any:
        """What `make`, `step` or `about` answers. Raises RuntimeError for what was raised there."""
        self.pipe.send(what)
        answer = self.pipe.recv()
        if isinstance(answer, Failure):
            raise RuntimeError(answer.words)
        return answer

    def end(self) -> None:
        self.pipe.close()
        self.process.join(20)


def _serve(pipe: Any, make: Callable[..., Side], args: tuple) -> None:
    side = None
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        try:
            if what == "make":
                side = make(*args)
                pipe.send(True)
            elif what == "step":
                pipe.send(side.step())
            else:
                pipe.send((side.amount, dict(side.about), (side.memory or _resident)()))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            pipe.send(Failure(f"{type(error).__name__}: {str(error)[:300]}"))


def of_torch(loss: Callable[[], Any], optimizer: Any, clip: float, amount: int) -> Side:
    """A PyTorch side: backward, clipping and update of a loss; on a GPU four steps in a row, the last loss read.

    Args:
      loss: hands the batch over and runs the forward pass.
      optimizer: holds what is trained.
      clip: limit of the gradients' norm.
      amount: images or tokens of a step.
    """
    import torch

    gpu = torch.cuda.is_available()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step() -> torch.Tensor:
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        return value.detach()

    def run() -> float:
        steps, began = 4 if gpu else 1, time.perf_counter()
        for _ in range(steps):
            last = step()
        last.item()
        return (time.perf_counter() - began) / steps

    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if gpu else "cpu"}
    return Side(run, amount, about, torch.cuda.max_memory_allocated if gpu else None)


def of_jax(program: Any, **about: Any) -> Side:
    """A `mtlora_jax.bench.step.Program` as a side, with more to say about it. FLOPs are the caller's to say: of a loop
    over layers the compiler counts one turn."""
    from mtlora_jax.bench.step import burst, environment

    told = {"program_bytes": program.peak_bytes, "compile_seconds": program.compile_seconds, **environment(), **about}
    return Side(lambda: program.run(burst()), program.amount, told)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

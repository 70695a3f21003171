"""Times programs in turns, each in a process of its own, so that neither's threads or memory weigh on the other.

A program is made by a module-level function, `make(*args) -> Side`, which is called in its process.
"""

import multiprocessing
import resource
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Side:
    """One program, compiled and ready.

    Attributes:
      step: runs one step to its end and returns its seconds.
      amount: images or tokens of a step.
      about: FLOPs, bytes, versions: whatever belongs beside the times.
      memory: bytes that it took at most; None reads this process's resident set.
    """

    step: Callable[[], float]
    amount: int
    about: Mapping[str, Any] = field(default_factory=dict)
    memory: Callable[[], int] | None = None


def alternate(sides: Mapping[str, tuple[Callable[..., Side], tuple]], rounds: int, warm: int = 2) -> dict[str, dict]:
    """Steps all sides in turns.

    Args:
      sides: by name, `(make, args)`.
      rounds: timed steps of each.
      warm: steps of each before, which are not timed.

    Returns:
      By name: seconds, minimum and median, amount a second at the median, peak memory, and what a side says about
      itself; or `error`, what kept it from running.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs, workers = {}, {}, {}
    results: dict[str, dict] = {}

    def ask(name: str, what: str) -> Any:
        ours[name].send(what)
        answer = ours[name].recv()
        if isinstance(answer, Failure):
            raise RuntimeError(answer.words)
        return answer

    times: dict[str, list[float]] = {}
    for name, (make, args) in sides.items():
        ours[name], theirs[name] = context.Pipe()
        workers[name] = context.Process(target=_serve, args=(theirs[name], make, args), daemon=True)
        workers[name].start()
        theirs[name].close()
        try:
            ask(name, "make")
            for _ in range(warm):
                ask(name, "step")
            times[name] = []
        except (RuntimeError, EOFError) as error:
            results[name] = {"error": str(error) or "the process died"}
    for _ in range(rounds):
        for name in times:
            times[name].append(ask(name, "step"))
    for name, seconds in times.items():
        amount, about, memory = ask(name, "about")
        median = statistics.median(seconds)
        results[name] = {
            "seconds_min": min(seconds),
            "seconds_median": median,
            "per_second": amount / median,
            "peak_bytes": memory,
            **about,
        }
    for name, worker in workers.items():
        ours[name].close()
        worker.join(10)
    return results


def ratios(results: Mapping[str, dict], ours: str) -> dict[str, dict[str, float]]:
    """How many times as long each other side takes."""
    mine = results[ours]
    return {
        name: {of: theirs[f"seconds_{of}"] / mine[f"seconds_{of}"] for of in ("min", "median")}
        for name, theirs in results.items()
        if name != ours and "error" not in theirs and "error" not in mine
    }


@dataclass(frozen=True)
class Failure:
    """Why a side cannot run, carried between processes."""

    words: str


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


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

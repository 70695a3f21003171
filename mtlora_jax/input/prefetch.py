"""Computing `make(step)` for step after step ahead of time, on processes or threads, in order.

Nothing here knows of data. A worker process shares one end of a pipe and nothing else: it reads a step, answers with
the result, and ends when the pipe is closed, however its parent ended. The pipe's small buffer is the bound: a worker
that is one result ahead waits.
"""

import atexit
import contextlib
import multiprocessing.resource_tracker
import multiprocessing.util  # its exit hook has to be registered before that of a pool
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, Generic, Literal, TypeVar

from mtlora_jax.errors import UserError
from mtlora_jax.recipes import load_recipe, loaded_recipes

T = TypeVar("T")
Make = Callable[[int], T]
HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that a terminal or a scheduler sends to the whole group; only the parent decides what they mean."""


class Prefetcher(Generic[T]):
    """A context in which results are computed ahead.

    Args:
      make: called with one step; for processes it is pickled.
      workers: how many compute at once; 0 computes in line, when a result is asked for.
      kind: processes for what holds the interpreter lock, threads for the rest.

    Raises:
      UserError: `make` cannot be pickled.
    """

    def __init__(self, make: Make[T], workers: int = 0, kind: Literal["process", "thread"] = "process"):
        pools = {"process": _Processes, "thread": _Threads}
        self._ahead = 2 * workers or 1
        self._pool = pools[kind](make, workers) if workers else _Inline(make)

    def run(self, steps: Iterable[int]) -> Iterator[T]:
        """The results in the order of `steps`; an error in one surfaces here, when its turn comes."""
        steps = iter(steps)
        pending = deque(self._pool.submit(step) for step in islice(steps, self._ahead))
        while pending:
            result = self._pool.result(pending.popleft())
            pending.extend(self._pool.submit(step) for step in islice(steps, 1))
            yield result

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Drops what is under way and ends the workers, without waiting for them."""
        self._pool.close()


class _Inline:
    def __init__(self, make: Make):
        self._make = make

    def submit(self, step: int) -> int:
        return step

    def result(self, step: int) -> Any:
        return self._make(step)

    def close(self) -> None:
        pass


class _Threads:
    def __init__(self, make: Make, workers: int):
        self._make = make
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")

    def submit(self, step: int) -> Future:
        return self._executor.submit(self._make, step)

    def result(self, future: Future) -> Any:
        return future.result()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Processes:
    """Workers take turns, so each pipe brings results in the order in which they are wanted."""

    def __init__(self, make: Make, workers: int):
        try:
            pickled = pickle.dumps(make)
        except Exception as error:
            raise UserError(
                f"the data set cannot be sent to worker processes ({error}); "
                "set --train.worker_kind=thread or --train.workers=0"
            ) from None
        # Forking would copy a process that runs JAX's threads, and hang sooner or later.
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []
        self._submitted = 0
        atexit.register(self.close)
        with _signals_held_back():
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, loaded_recipes(), pickled), daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))

    def submit(self, step: int) -> int:
        ticket, self._submitted = self._submitted, self._submitted + 1
        with contextlib.suppress(OSError):  # a dead worker is reported when its result is due
            self._workers[ticket % len(self._workers)][1].send((ticket, step))
        return ticket

    def result(self, ticket: int) -> Any:
        process, connection = self._workers[ticket % len(self._workers)]
        try:
            answered = None
            while answered != ticket:  # an abandoned run leaves answers behind
                answered, done, result = connection.recv()
        except (EOFError, OSError):
            process.join(1)
            raise UserError(
                f"a data worker died with exit code {process.exitcode}: out of memory? "
                "--train.workers=0 reads the data in the main process"
            ) from None
        if not done:
            raise result
        return result

    def close(self) -> None:
        atexit.unregister(self.close)
        for process, connection in self._workers:
            connection.close()
            # Not SIGTERM, which workers hold back; there is nothing they could leave half done.
            process.kill()
        for process, _ in self._workers:
            process.join()
        self._workers = []


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started inside inherit the mask; signals that come meanwhile arrive afterwards."""
    # Started with the first process, the tracker would lift the mask again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, recipes: tuple[str, ...], pickled: bytes) -> None:
    """Answers steps with results until the parent closes the pipe; what a worker process runs."""
    # What is pickled may be of classes that a recipe file defines.
    for path in recipes:
        load_recipe(path)
    make: Make = pickle.loads(pickled)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            ticket, step = connection.recv()
            try:
                reply = ticket, True, make(step)
            except Exception as error:
                reply = ticket, False, _portable(error)
            connection.send(reply)


def _portable(error: Exception) -> Exception:
    """The error with this process's traceback as a note; in words where it does not survive pickling."""
    trace = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"in a data worker:\n{trace}")
    return copy

"""The processes of a run among each other: what one says, all know; what ends one, ends all.

Everything here is trivial for one process. What is called by all is called by all in the same order.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtlora_jax.engine.mesh import replicated
from mtlora_jax.errors import Interrupted, UserError, one_line
from mtlora_jax.mirrors import Note

T = TypeVar("T")
FAILURE = ".failure"
"""A file of the work directory: the line of a process that ended, for the others to end with."""
GONE = re.compile(r"Gloo \S+ failed|UNAVAILABLE: |Connection (reset|closed|refused)")
"""What transports say when nobody is at the other end."""
POLL = 1.0
"""Seconds between looks at it."""


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def each(said: bytes) -> list[bytes]:
    """What every process says, in their order; called by all."""
    if jax.process_count() == 1:
        return [said]
    sizes = multihost_utils.process_allgather(np.int32(len(said)))
    padded = np.frombuffer(said.ljust(max(int(sizes.max()), 1), b"\0"), np.uint8)
    return [bytes(row[:size]) for row, size in zip(multihost_utils.process_allgather(padded), sizes, strict=True)]


def first(text: str | None) -> str | None:
    """What the first process that has something to say says, on all processes; None where none has."""
    return next((found.decode() for found in each((text or "").encode()) if found), None)


def told(find: Callable[[], T]) -> T:
    """What `find` gives on the first process, JSON, on all processes; called by all, when the first is done.

    Raises:
      UserError: that of the first, on all.
    """
    if jax.process_count() == 1:
        return find()
    reply = None
    if is_first():
        try:
            reply = {"found": find()}
        except (UserError, OSError) as error:
            reply = {"error": one_line(error)}
    reply = json.loads(first(json.dumps(reply) if reply else None))
    if "error" in reply:
        raise UserError(reply["error"])
    return reply["found"]


def gathered(numbers: np.ndarray) -> np.ndarray:
    """The numbers of all processes in one row, of as many as each has."""
    return np.concatenate([np.frombuffer(found, numbers.dtype) for found in each(numbers.tobytes())])


def on_host(tree: Any) -> Any:
    """Arrays as numpy's, whole; of those that are cut over processes, the first process alone gets them."""

    def fetched(x: jax.Array) -> np.ndarray | None:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        whole = jax.jit(lambda x: x, out_shardings=replicated(x.sharding.mesh))(x)
        return np.asarray(whole) if is_first() else None

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(fetched, tree)


def everywhere(tree: Any) -> Any:
    """Arrays as numpy's, whole, on all processes; called by all."""

    def fetched(x: jax.Array) -> np.ndarray:
        there = x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x) if there else multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(fetched, tree)


class Stops:
    """Whether a process was told to stop: the same answer on all of them, after the same step.

    With many processes the answer comes one step late, so that no device waits for it.
    """

    def __init__(self, mesh: Mesh):
        self._many = jax.process_count() > 1
        if self._many:
            self._cut = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            self._count = mesh.size
            self._highest = jax.jit(jnp.max, out_shardings=replicated(mesh))
            self._pending: jax.Array | None = None

    def agreed(self, received: int | None) -> int | None:
        """The signal that stops all, if any; called after every step.

        Args:
          received: this process's own.
        """
        if not self._many:
            return received
        before = self._pending
        own = jax.make_array_from_callback((self._count,), self._cut, lambda _: np.full(1, received or 0, np.int32))
        self._pending = self._highest(own)
        return None if before is None else int(before) or None


@contextlib.contextmanager
def together(workdir: Path) -> Iterator[None]:
    """While entered, an error of one process ends all of them, with its line and exit status 2: the others may wait for
    it in a computation that never ends. The work directory, which all share, is where it is told."""
    if jax.process_count() == 1:
        yield
        return
    note, done = Note(workdir / FAILURE), threading.Event()
    told(note.remove)  # that of an earlier run
    poll = 10 * POLL if note.remote else POLL

    def watch() -> None:
        while not done.wait(poll):
            with contextlib.suppress(OSError):
                line = note.read()
                if line and not done.is_set():
                    print(f"error: {line}", file=sys.__stderr__, flush=True)
                    if is_first():  # it is what the others are connected to: they look first
                        time.sleep(3 * poll)
                    os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        done.set()
        gone = GONE.search(str(error))
        words = "another process is gone; the same command resumes" if gone else one_line(error)
        line, known = f"process {jax.process_index()}: {words}", gone or isinstance(error, UserError | OSError)
        with contextlib.suppress(OSError):
            if earlier := note.read():  # another was first, and this is what came of it here
                line, known = earlier, True
            else:
                note.write(line)
        if not known:
            traceback.print_exception(error)
        print(f"error: {line}", file=sys.__stderr__, flush=True)
        time.sleep(3 * poll if is_first() else 0)
        sys.stdout.flush()
        os._exit(2)  # at its regular end a process waits for the others
    finally:
        done.set()


def check_shared(note: Note) -> None:
    """Raises UserError, on all processes, where one does not see a note as the first does."""
    if jax.process_count() == 1:
        return
    # What is behind the second comma of a lease changes all the time.
    text, problem = told(lambda: _constant(note)), None
    for _ in range(20):
        with contextlib.suppress(OSError):
            if _constant(note) == text:
                break
        time.sleep(0.5)
    else:
        problem = f"process {jax.process_index()} does not see what process 0 wrote to {note.where}"
    if problem := first(problem):
        raise UserError(f"{problem}: give a --workdir that all processes share")


def _constant(note: Note) -> list[str]:
    return (note.read() or "").split(", ")[:2]

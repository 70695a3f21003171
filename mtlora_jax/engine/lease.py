"""A lock for stores, which have none."""

import contextlib
import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from mtlora_jax.errors import UserError
from mtlora_jax.mirrors import Note

BEAT = 10.0
"""Seconds between the signs of life of who holds a lease."""
BEATS = 3
"""After how many missed ones it is nobody's."""


@contextlib.contextmanager
def leased(note: Note, holder: str) -> Iterator[None]:
    """Holds an object that its holder writes anew every few seconds. One that has stood still for `BEATS` of them was
    left by a dead holder, and is taken.

    Raises:
      UserError: a living process holds it.
    """

    def refuse(found: str) -> UserError:
        return UserError(f"{note.where} is held by {_holder(found)}; wait for it, or choose another --workdir")

    if (before := note.read()) is not None:
        print(f"{note.where}: seeing whether {_holder(before)} is alive", file=sys.stderr)
        end = time.monotonic() + BEATS * BEAT
        while (now := note.read()) == before and time.monotonic() < end:
            time.sleep(BEAT / 4)
        if now not in (None, before):
            raise refuse(now)
    mine, done = f"{holder}, {uuid.uuid4().hex}", threading.Event()
    note.write(mine)
    time.sleep(BEAT / 10)  # of several that wrote at the same time, the last one has it
    if (now := note.read() or "") != mine:
        raise refuse(now)

    def beat() -> None:
        for count in itertools.count(1):
            if done.wait(BEAT):
                return
            with contextlib.suppress(OSError):
                if not (note.read() or mine).startswith(mine):
                    print(f"error: {note.where} was taken by another process", file=sys.__stderr__, flush=True)
                    os._exit(2)
                note.write(f"{mine}, beat {count}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            note.remove()


def _holder(found: str) -> str:
    return found.partition(", ")[0] or "another process"

"""Standard streams that may be closed while a command runs: a pager that was left, a terminal that hung up."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unbreakable:
    """A stream to which writing never fails: from the first failure on, nothing is written any more."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def discard(stream: TextIO) -> None:
    """Sends what a stream still holds, and all that comes, nowhere: Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def unbreakable_streams() -> Iterator[None]:
    """Standard output and standard error may be closed inside, and the work goes on."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Unbreakable, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before

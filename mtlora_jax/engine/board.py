"""TensorBoard's files, written as they come: its library's own writer does so on a thread, whose errors nobody sees."""

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np


class Board:
    """Scalars and pictures of a run.

    Args:
      directory: made if need be.
      first: updates already done; what an earlier process wrote of later ones is purged from view.

    Raises:
      ImportError: the library is not installed.
      OSError: the disk is full or the like, of every method.
    """

    def __init__(self, directory: Path, first: int):
        import tensorboardX  # noqa: F401  (its parts are found without it where it was imported before)
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        # Files are named by the second otherwise.
        self._file = EventsWriter(str(directory / "events"), f".from{first:08d}")
        if first:
            self._write(first + 1, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        if math.isfinite(value):
            self._write(step, summary=scalar(_tag(name), value))

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """A uint8 `[H, W, 3]` picture."""
        from tensorboardX.summary import image

        self._write(step, summary=image(_tag(name), picture, dataformats="HWC"))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **what))


def _tag(name: str) -> str:
    """A name in the characters that TensorBoard has."""
    return re.sub(r"[^-/\w.]", "_", name)

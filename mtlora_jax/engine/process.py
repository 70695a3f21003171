"""What a door does before anything else: memory and compiled programs kept, libraries that keep quiet."""

import contextlib
import ctypes
import logging
import sys
import warnings

from mtlora_jax.engine import compiled

STRAGGLER = "Event loop is closed"
"""What every write of a checkpoint that is under way reports by itself, past any `except`, once another has failed."""


MALLOPT = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
"""Options of glibc's malloc and what they are set to: freed memory is kept, in one pool."""


def keep_memory() -> None:
    """Has the C library keep what is freed: a step on a CPU takes its gigabytes anew each time, and much of its time
    would go into the pages that the system hands out and takes back. Where there is no glibc, nothing is done."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in MALLOPT.values():
        mallopt(option, value)


def return_memory() -> None:
    """Gives back to the system what is free now: after compiling, and after a first step, it may lie in pieces that the
    next step's arrays do not fit."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def prepare() -> None:
    """Keeps freed memory and compiled programs, and has libraries log nothing: what goes wrong in them is raised, and
    told in a line, not once more by every thread."""
    keep_memory()
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine '.*' was never awaited")
    report = sys.unraisablehook
    sys.unraisablehook = lambda what: None if str(what.exc_value) == STRAGGLER else report(what)
    compiled.keep()

"""What a door does before anything else: memory and compiled programs kept, libraries that keep quiet."""

import contextlib
import ctypes
import gc
import logging
import os
import resource
import sys
import warnings
from collections.abc import Mapping

from mtlora_jax.engine import compiled

STRAGGLER = "Event loop is closed"
"""What every write of a checkpoint that is under way reports by itself, past any `except`, once another has failed."""


MALLOPT = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
"""Options of glibc's malloc and what they are set to: freed memory is kept, in one pool."""


LARGE = {"M_MMAP_THRESHOLD": (-3, 1 << 25), "M_MMAP_MAX": (-4, 1 << 16)}
"""What options are set to for large steps: arrays from 32 MiB on are the system's again as soon as they are freed."""
MOST_KEPT = 0.25
"""The share of the machine's memory that steps may have taken for what they free to be kept: small arrays fall into the
place of large ones, which then find none, so that in all three times as much may be kept as a step needs."""


COLLECTED = (10_000, 10, 10)
"""After how many new objects Python looks for cycles among them. Most that tracing makes stay: by Python's own 700, a
third of its time goes into looking."""


def keep_memory() -> None:
    """Has the C library keep what is freed: a step on a CPU takes its gigabytes anew each time, and much of its time
    would go into the pages that the system hands out and takes back. Where there is no glibc, nothing is done."""
    _mallopt(MALLOPT)


def _mallopt(options: Mapping[str, tuple[int, int]]) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.values():
            mallopt(option, value)


def return_memory() -> None:
    """After a first step: gives back to the system what is free now, for it may lie in pieces that the next step's
    arrays do not fit; and has large steps keep nothing from now on."""
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if taken > MOST_KEPT * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            _mallopt(LARGE)
        ctypes.CDLL(None).malloc_trim(0)


def prepare() -> None:
    """Keeps freed memory and compiled programs, looks for garbage less often, and has libraries log nothing: what goes
    wrong in them is raised, and told in a line, not once more by every thread."""
    keep_memory()
    gc.set_threshold(*COLLECTED)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine '.*' was never awaited")
    report = sys.unraisablehook
    sys.unraisablehook = lambda what: None if str(what.exc_value) == STRAGGLER else report(what)
    compiled.keep()

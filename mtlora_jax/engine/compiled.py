"""Compiled programs: kept between runs, counted, and thrown away where they cannot be read."""

import os
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mtlora_jax.files import cache_home

REQUEST = "/jax/core/compile/backend_compile_duration"
HIT = "/jax/compilation_cache/cache_hits"
UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


@dataclass
class Count:
    """What this process asked the compiler for.

    Attributes:
      programs: how many.
      kept: those of them that an earlier run had compiled.
      seconds: spent on compiling and reading.
    """

    programs: int = 0
    kept: int = 0
    seconds: float = 0.0

    def words(self) -> str:
        fresh = self.programs - self.kept
        return f"{fresh} programs compiled and {self.kept} kept ones read in {self.seconds:.1f} s"


COUNT = Count()


def keep() -> None:
    """Keeps compiled programs below `~/.cache/mtlora_jax` (`JAX_COMPILATION_CACHE_DIR` says otherwise); one that cannot
    be read is deleted, and compiled again."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.monitoring.register_event_duration_secs_listener(_requested)
    jax.monitoring.register_event_listener(_hit)
    show = warnings.showwarning

    def shown(message: Any, *args: Any, **options: Any) -> None:
        if found := UNREADABLE.match(str(message)):
            discard(Path(jax.config.jax_compilation_cache_dir), found[1])
        else:
            show(message, *args, **options)

    warnings.showwarning = shown


def discard(folder: Path, program: str) -> None:
    """Deletes a program's entries. Which of them was unreadable is not told; JAX would read it again for ever."""
    for entry in folder.glob(f"{program}-*"):
        entry.unlink(missing_ok=True)
    print(f"{folder}: a compiled {program} could not be read; it is deleted, and compiled again", file=sys.stderr)


def _requested(event: str, seconds: float, **_: Any) -> None:
    if event == REQUEST:
        COUNT.programs += 1
        COUNT.seconds += seconds


def _hit(event: str, **_: Any) -> None:
    COUNT.kept += event == HIT

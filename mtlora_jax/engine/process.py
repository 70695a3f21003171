"""What a door does before anything else: compiled programs kept between runs, libraries that keep quiet."""

import logging
import os
import sys
import warnings
from pathlib import Path

import jax

STRAGGLER = "Event loop is closed"
"""What every write of a checkpoint that is under way reports by itself, past any `except`, once another has failed."""


def prepare() -> None:
    """Keeps compiled programs below `~/.cache/mtlora_jax` (`JAX_COMPILATION_CACHE_DIR` says otherwise), and has
    libraries log nothing: what goes wrong in them is raised, and told in a line, not once more by every thread."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine '.*' was never awaited")
    report = sys.unraisablehook
    sys.unraisablehook = lambda what: None if str(what.exc_value) == STRAGGLER else report(what)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "mtlora_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

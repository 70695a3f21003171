"""What a door does before anything else: compiled programs kept between runs, libraries that keep quiet."""

import logging
import os
from pathlib import Path

import jax


def prepare() -> None:
    """Keeps compiled programs below `~/.cache/mtlora_jax` (`JAX_COMPILATION_CACHE_DIR` says otherwise), and lets
    libraries report errors alone."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "mtlora_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

"""Commands as a user starts them, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def runner(cache: Path) -> Callable[..., str]:
    """`run(script, *arguments)` gives what Python printed there, or fails with what it complained of.

    Args:
      cache: a folder of compiled programs, which all runs share; they are not optimised.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }

    def run(*arguments) -> str:
        done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

"""Commands as a user starts them, in processes of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtlora_jax.engine.launch import FLAGS

ROOT = Path(__file__).parents[1]


def runner(cache: Path) -> Callable[..., str]:
    """`run(script, *arguments)` gives what Python printed there, or fails with what it complained of.

    Args:
      cache: a folder of compiled programs, which all runs share; they are as little optimised as those of the tests.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_llvm_disable_expensive_passes=true",
    }

    def run(*arguments) -> str:
        done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Hosts:
    """`count` processes that run one command together.

    Args:
      command: of the process of a number, given its launch flags.
      cache: a folder of compiled programs, which all share; they are as little optimised as those of the tests.
      devices: of each.
    """

    def __init__(
        self,
        count: int,
        command: Callable[[int, Mapping[str, str | None]], Sequence[str]],
        cache: Path,
        devices: int = 1,
    ):
        address, environment = f"127.0.0.1:{free_port()}", dict(os.environ)
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        flags = [None if count == 1 else (address, str(count), str(i)) for i in range(count)]
        self.processes = [
            subprocess.Popen(
                command(i, dict(zip(FLAGS, flags[i] or (None,) * 3, strict=True))),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]

    def end(self) -> tuple[list[int], list[str], list[str]]:
        """Exit codes, and what each wrote to stdout and stderr."""
        try:
            written = [process.communicate(timeout=120) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], *(list(of) for of in zip(*written, strict=True))

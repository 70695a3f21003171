"""Where a training step's time goes, by the compiled program's operations."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mtlora_jax.bench.step import Program, environment, program_of
from mtlora_jax.config import Config

LISTED = 60
"""Operations in a report."""


def bench(config: Config, rounds: int = 3, plain: bool = False) -> dict[str, Any]:
    """Traces the config's real step on made-up data.

    Args:
      rounds: steps that are traced.
      plain: trace what the step is compared with instead; see `bench.step.plain_of`.

    Returns:
      Seconds of a step while traced, milliseconds of all operations together (of all cores, or of the device), and the
      longest operations: milliseconds a step, how often a step runs it, its shape, and where in the model it is from.
    """
    return {"config": config.name, **traced(program_of(config, plain), rounds)}


def traced(program: Program, rounds: int) -> dict[str, Any]:
    """`bench`, of a program."""
    program.run()  # on a CPU the first steps take memory that later ones find
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = min(program.run() for _ in range(rounds))
        (path,) = Path(folder).rglob("*.xplane.pb")
        spent, count = _summed(path, operations := _operations(program.step.as_text()))
    return {
        **environment(),
        "seconds": seconds,
        "milliseconds": sum(spent.values()) / rounds,
        "operations": [
            {
                "milliseconds": round(total / rounds, 3),
                "runs": count[name] / rounds,
                "operation": name,
                **dict(zip(("shape", "source"), operations.get(name, ("", "")), strict=True)),
            }
            for name, total in spent.most_common(LISTED)
        ],
    }


def _operations(program: str) -> dict[str, tuple[str, str]]:
    """`{name: (shape, path in the model)}` of a compiled program's operations, under both spellings of names."""
    found = {}
    for name, shape, rest in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\([^)]*\)|\S+) (.*)$", program, re.MULTILINE):
        source = re.search(r'op_name="(?:jit\(\w+\)/)?([^"]*)"', rest)
        found[name] = found[name.replace(".", "_")] = (shape, source[1] if source else "")
    return found


def _summed(path: Path, operations: dict) -> tuple[Counter, Counter]:
    """Milliseconds and runs of every operation in a trace; a GPU's kernels go by the operations that they run."""
    spent, count = Counter(), Counter()
    for name, milliseconds in _events(path, operations):
        spent[name] += milliseconds
        count[name] += 1
    return spent, count


def _events(path: Path, operations: dict) -> Iterator[tuple[str, float]]:
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        device = "GPU" in plane.name or "TPU" in plane.name
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op", event.name)
                if name in operations or (device and "Stream" in line.name):
                    yield name, event.duration_ns / 1e6

"""Benchmarks, as JSON.

python -m mtlora_jax.bench step --config FILE [--rounds N] [--plain] [--any.key=value]
    how long a training step takes, against what the machine could do, and against plain Swin
python -m mtlora_jax.bench profile --config FILE [--rounds N] [--plain] [--any.key=value]
    where a step's time goes, operation by operation, the longest first
python -m mtlora_jax.bench loader --config FILE [--rounds N] [--alone] [--any.key=value]
    images/s from the data set, and how long steps wait for them
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, load_config, override, split_flags
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json

KINDS = {
    "step": ("mtlora_jax.bench.step", "plain"),
    "profile": ("mtlora_jax.bench.profile", "plain"),
    "loader": ("mtlora_jax.bench.loader", "alone"),
}
"""Where a benchmark lives, and its one switch."""


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("config", "rounds", "json"), ("plain", "alone", "help"))
    if flags["help"] or not rest:
        print(__doc__, "  --json FILE also writes the report there", sep="\n")
        return
    kind, *overrides = rest
    if kind not in KINDS:
        raise UserError(f"unknown benchmark {kind}: there are {', '.join(KINDS)}")
    if not flags["config"]:
        raise UserError("no recipe: give one with --config FILE")
    rounds = flags["rounds"] or "10"
    if not rounds.isdigit() or rounds == "0":
        raise UserError(f"--rounds takes a count, not {rounds}")
    config = override(load_config(flags["config"]), overrides)
    config.validate()
    module, switch = KINDS[kind]
    report = import_module(module).bench(config, int(rounds), flags[switch])
    print(json.dumps(report, indent=2))
    if flags["json"]:
        write_json(Path(flags["json"]), report)


if __name__ == "__main__":
    main(sys.argv[1:])

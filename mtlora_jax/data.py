"""Data sets: inspected, and prepared.

python -m mtlora_jax.data check --config FILE [--expect pascal|nyud|commonsense] [--out DIR] [--key.sub_key=value ...]
    reads all that a recipe would, reports metrics of every task and what is wrong, draws a contact sheet of pictures

python -m mtlora_jax.data prepare pascal|nyud --manual_dir ROOT --data_dir DIR [--tasks a,b] [--workers N]
    writes a published data set as random-access records, to be read with --data.prepared=DIR

python -m mtlora_jax.data features --images SET=FOLDER [SET=FOLDER ...] --encoder NAME [--weights FILE] --out DIR
                                   [--part I/N]
    computes the features that image-text recipes read, with --data.prepared=DIR; run again it goes on; with --part I/N
    a process does the I-th of N shares, counted from 0
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, load_config, override, split_flags
from mtlora_jax.config import Config
from mtlora_jax.domains import domain_of
from mtlora_jax.errors import UserError


def check(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("config", "expect", "out", "workers"))
    if not flags["config"]:
        raise UserError("check needs a recipe, which names the tasks: --config FILE")
    config = override(load_config(flags["config"]), rest)
    config.validate()
    out = Path(flags["out"] or "data_check")
    check_config(config, out, flags["expect"], count(flags["workers"]))


def check_config(config: Config, out: Path, expect: str | None, workers: int) -> None:
    """Inspects the data of a config, as its domain does. Raises UserError for a config that trains on no data set."""
    domain = domain_of(config).rpartition(".")[0]
    module = f"{domain}.datasets.check"
    if not hasattr(config, "data"):
        raise UserError(f"{type(config).__name__} makes its own data while it trains: there is nothing to check")
    import_module(module).check(config, out, expect, workers)


def prepare(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("manual_dir", "data_dir", "tasks", "workers"))
    from mtlora_jax.vision.datasets.prepare import prepare as run

    if len(rest) != 1:
        raise UserError("prepare takes one data set: python -m mtlora_jax.data prepare pascal ...")
    for name in ("manual_dir", "data_dir"):
        if not flags[name]:
            raise UserError(f"prepare needs --{name}; python -m mtlora_jax.data explains")
    tasks = tuple(filter(None, (flags["tasks"] or "").split(",")))
    print(run(rest[0], flags["manual_dir"], flags["data_dir"], tasks, count(flags["workers"])))


def features(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("images", "encoder", "weights", "out", "part"))
    for name in ("images", "encoder", "out"):
        if not flags[name]:
            raise UserError(f"features needs --{name}; python -m mtlora_jax.data explains")
    part, _, parts = (flags["part"] or "0/1").partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise UserError(f"--part takes I/N with I from 0 to N - 1, not {flags['part']}")
    if unknown := [argument for argument in rest if argument.startswith("--")]:
        raise UserError(f"unknown argument {unknown[0]}; python -m mtlora_jax.data explains")
    from mtlora_jax.image_text.datasets.make_features import make_features

    share = int(part), int(parts)
    folders = [flags["images"], *rest]
    print("wrote", make_features(folders, flags["encoder"], flags["weights"] or "", Path(flags["out"]), share))


def count(text: str | None) -> int:
    if not (text or "2").isdigit():
        raise UserError(f"--workers takes a count, not {text}")
    return int(text or 2)


COMMANDS = {"check": check, "prepare": prepare, "features": features}


@fail_cleanly()
def main(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *rest = argv
    if command not in COMMANDS:
        raise UserError(f"no command {command}: there are {', '.join(COMMANDS)}")
    from mtlora_jax.engine import process

    process.prepare()
    COMMANDS[command](rest)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Data sets: looked over, and prepared.

python -m mtlora_jax.data check --config FILE [--expect pascal|nyud|commonsense] [--out DIR] [--key.sub_key=value ...]
    reads all that a recipe would, reports figures of every task and what is wrong, draws a contact sheet of pictures

python -m mtlora_jax.data prepare pascal|nyud --manual_dir ROOT --data_dir DIR [--tasks a,b] [--workers N]
    writes a published data set as random-access records, to be read with --data.prepared=DIR
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, load_config, override, split_flags
from mtlora_jax.config import Config
from mtlora_jax.errors import UserError


def check(argv: Sequence[str]) -> None:
    flags, rest = split_flags(argv, ("config", "expect", "out", "workers"))
    if not flags["config"]:
        raise UserError("check needs a recipe, which names the tasks: --config FILE")
    config = override(load_config(flags["config"]), rest)
    config.validate()
    out = Path(flags["out"] or "data_check")
    if type(config).__name__ == "TextConfig":
        check_text(config, out, flags["expect"])
        return
    from mtlora_jax.vision.datasets.check import check as run

    run(config, out, flags["expect"], count(flags["workers"]))


def check_text(config: Config, out: Path, expect: str | None) -> None:
    """Encodes every row of both splits, prints figures of every task, and writes them to `report.json`."""
    from mtlora_jax.files import make_workdir, write_json
    from mtlora_jax.language.templates import TEMPLATES
    from mtlora_jax.text.datasets import check
    from mtlora_jax.text.datasets.sources import rows_of, tokenizer_of

    if expect not in (None, "commonsense"):
        raise UserError(f"--expect {expect}: the figures known are those of commonsense")
    make_workdir(out)
    tokenizer, template, report = tokenizer_of(config), TEMPLATES[config.template], {}
    for split in ("train", "val"):
        found = check.check(rows_of(config, split), tokenizer, template, config.cutoff, config.truncation)
        print(f"{split}: {check.text(found, config.cutoff)}")
        for line in check.compare(found, split) if expect else ():
            print(line)
        report[split] = check.as_json(found)
    write_json(out / "report.json", report)
    print(f"wrote {out / 'report.json'}")


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


def count(text: str | None) -> int:
    if not (text or "2").isdigit():
        raise UserError(f"--workers takes a count, not {text}")
    return int(text or 2)


COMMANDS = {"check": check, "prepare": prepare}


@fail_cleanly()
def main(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *rest = argv
    if command not in COMMANDS:
        raise UserError(f"no command {command}: there are {', '.join(COMMANDS)}")
    COMMANDS[command](rest)


if __name__ == "__main__":
    main(sys.argv[1:])

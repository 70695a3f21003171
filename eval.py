"""Evaluates a checkpoint again, the newest one by default.

    python eval.py --workdir DIR [--step N] [--protocol native|boundary] [--predictions DIR]

Without a protocol: as in training, at the network's resolution on resized labels, as published figures are made.
`native` scores at every label's own size, and writes predictions as png on request; `boundary` adds odsF of edges.
"""

import sys
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, split_flags
from mtlora_jax.errors import UserError


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "step", "protocol", "predictions"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    if rest or not flags["workdir"]:
        raise UserError(f"{f'unknown argument {rest[0]}' if rest else 'no --workdir'}: python eval.py --workdir DIR")
    step = flags["step"]
    if step is not None and not step.isdigit():
        raise UserError(f"--step takes a step's number, not {step}")
    from mtlora_jax.domains import workload_of
    from mtlora_jax.engine import process
    from mtlora_jax.engine.run import config_of, reevaluate

    process.prepare()
    workdir = Path(flags["workdir"])
    config = config_of(workdir)
    reevaluate(
        config,
        workload_of(config),
        workdir,
        None if step is None else int(step),
        flags["protocol"],
        flags["predictions"] and Path(flags["predictions"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])

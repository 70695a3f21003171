"""Evaluates a checkpoint again, the last one by default.

    python eval.py --workdir DIR [--step best|last|N] [--protocol NAME] [--predictions DIR]

Without a protocol: as in training, dense labels at the network's resolution, as published numbers are made.
Dense tasks: `native` scores at every label's own size, and saves predictions on request; `boundary` adds odsF of edges.
Text: `generate` decodes answers and scores them; `options` takes the likeliest option.
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
    from mtlora_jax.engine import process
    from mtlora_jax.engine.run import open_run

    process.prepare()
    predictions = flags["predictions"] and Path(flags["predictions"])
    open_run(flags["workdir"]).evaluate(flags["step"] or "last", flags["protocol"], predictions)


if __name__ == "__main__":
    main(sys.argv[1:])

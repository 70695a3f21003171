"""Evaluates a checkpoint again, the last one by default; or, with a config, what its run would start from.

    python eval.py --workdir DIR [--step best|last|N] [--protocol NAME] [--predictions DIR] [--data.root=DIR ...]
    python eval.py --config FILE [--protocol NAME] [--predictions DIR] [--init_from=DIR ...]

Without a protocol: as in training, dense labels at the network's resolution, as published numbers are made.
Dense tasks: `native` scores at every label's own size, and saves predictions on request; `boundary` adds odsF of edges.
Text: `generate` decodes answers and scores them; `options` takes the likeliest option.
What has moved since training is said like any key of the config: `--data.root=DIR`, `--init_from=DIR`; so is what only
the machine asks for, such as `--train.eval_batch_size=4`. Of a sweep, `--slot best` or `--slot NAME` says which run.
Several processes evaluate as they train together, with `--coordinator HOST:PORT --processes N --process I`.
`--help --workdir DIR` lists the protocols of a run.
"""

import sys

from mtlora_jax import mirrors
from mtlora_jax.cli import fail_cleanly, load_config, open_trained, override, split_flags
from mtlora_jax.engine import launch
from mtlora_jax.errors import UserError


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "config", "step", "protocol", "predictions", *launch.FLAGS), ("help",))
    if flags["help"]:
        print(__doc__)
        if flags["workdir"]:
            protocols = open_trained(flags["workdir"], rest).workload.protocols
            print(f"protocols of {flags['workdir']}: {', '.join(protocols) or 'none'}")
        return
    if bool(flags["workdir"]) == bool(flags["config"]):
        raise UserError("give a run, python eval.py --workdir DIR, or a recipe, --config FILE")
    from mtlora_jax.engine import process
    from mtlora_jax.engine.run import evaluate_untrained

    process.prepare()
    launch.join(flags)
    predictions = flags["predictions"] and mirrors.outgoing(flags["predictions"])
    if flags["config"]:
        config = override(load_config(flags["config"]), rest)
        config.validate()
        evaluate_untrained(config, flags["protocol"], predictions)
        return
    open_trained(flags["workdir"], rest).evaluate(flags["step"] or "last", flags["protocol"], predictions)


if __name__ == "__main__":
    main(sys.argv[1:])

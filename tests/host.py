"""One process of a run of `line`, as the doors start it: `python tests/host.py '{...}'`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import line

from mtlora_jax.cli import fail_cleanly
from mtlora_jax.config import Optim, Train


@fail_cleanly()
def main(told: dict) -> None:
    from mtlora_jax.engine import launch, process
    from mtlora_jax.engine.loop import train

    process.prepare()
    launch.join(told["launch"])
    config = line.LineConfig(
        optim=Optim(lr=0.1, schedule="linear", steps=400),
        train=Train(**{"batch_size": 8, "workers": 0, "log_every": 1, **told["train"]}),
        data=line.LineData(told.get("root", "")),
    )
    train(replace(config, seed=told.get("seed", 0)), line.make_workload(config), Path(told["workdir"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

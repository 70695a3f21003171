"""Trains a recipe: `python train.py --config configs/scenes_mtlora.py [--workdir DIR] [--dry_run] [--key=value]`."""

import sys

from mtlora_jax.cli import fail_cleanly, parse_door
from mtlora_jax.terminal import unbreakable_streams


@fail_cleanly()
def main(argv: list[str]) -> None:
    door = parse_door(argv, prog="train.py")
    from mtlora_jax.domains import workload_of
    from mtlora_jax.engine import launch, process
    from mtlora_jax.engine.dry_run import dry_run, shaped
    from mtlora_jax.engine.loop import train
    from mtlora_jax.engine.pace import traced_steps

    profile = traced_steps(door.profile)
    process.prepare()
    launch.join(door.launch)
    with unbreakable_streams():
        if door.dry_run:
            dry_run(*shaped(door.config), door.workdir)
        else:
            train(door.config, workload_of(door.config), door.workdir, profile)


if __name__ == "__main__":
    main(sys.argv[1:])

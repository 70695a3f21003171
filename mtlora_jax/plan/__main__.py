"""What a recipe needs on TPUs, before any is rented: its training step is compiled for a slice that is not there.

    python -m mtlora_jax.plan --config FILE --topology v5e:4x4 [--json FILE] [--key=value ...]
    python -m mtlora_jax.plan --config FILE --topology v5e --search [--key=value ...]

Prints memory a device by kind of buffer, whether it fits, FLOPs, what is sent over each mesh axis, and the time below
which no step can be. `--search` goes through a generation's slices, small to large, and through the meshes of each, up
to the first slice that fits. `--base_dtype=float32` says what frozen weights are stored in. Needs `pip install
"jax[tpu]"`.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mtlora_jax.cli import fail_cleanly, load_config, override, split_flags
from mtlora_jax.config import Config, Mesh
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json
from mtlora_jax.listing import GIB, text_table

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""What keeps the TPU compiler from looking for TPUs."""


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("config", "topology", "json", "base_dtype"), ("search", "help"))
    if flags["help"] or not argv:
        print(__doc__)
        return
    for name in ("config", "topology"):
        if not flags[name]:
            raise UserError(f"--{name} is missing; --help shows how it is said")
    if flags["base_dtype"] not in (None, "float32", "bfloat16"):
        raise UserError(f"--base_dtype must be float32 or bfloat16, not {flags['base_dtype']}")
    os.environ.update(ENVIRONMENT)
    from mtlora_jax.plan.step import plan

    config = override(load_config(flags["config"]), rest)
    config.validate()
    if flags["search"]:
        found = search(config, flags["topology"], flags["base_dtype"])
    else:
        found = [plan(config, flags["topology"], flags["base_dtype"])]
    best = min((p for p in found if p.fits), key=lambda p: p.chip_hours, default=found[-1])
    if len(found) > 1:
        print(table(found), end="\n\n")
    print(described(best))
    if flags["json"]:
        write_json(
            Path(flags["json"]), best.as_json() | ({"tried": [p.as_json() for p in found]} if len(found) > 1 else {})
        )
        print(f"wrote {flags['json']}")


def search(config: Config, generation: str, base_dtype: str | None) -> list:
    """Plans of a generation's slices, small to large, up to the first that some mesh fits."""
    from tqdm import tqdm

    from mtlora_jax.plan.chips import chip_of, chips_of
    from mtlora_jax.plan.step import plan

    name, chip = chip_of(generation)
    found = []
    for topology in (f"{name}:{sizes}" for sizes in chip.slices):
        tried = list(meshes(chips_of(topology) * chip.devices, config))
        for mesh in tqdm(tried, topology, unit=" meshes", leave=False, disable=None):
            found.append(plan(replace(config, mesh=mesh), topology, base_dtype))
        if any(p.fits for p in found):
            break
    return found


def meshes(devices: int, config: Config) -> Iterator[Mesh]:
    """Meshes of some devices that the batch divides over: weights whole, cut over all devices, or in between."""
    parts = config.train.batch_size // config.train.accumulate
    for tensor in (1, 2, 4):
        for fsdp in (n for n in range(1, devices + 1) if devices % (n * tensor) == 0 and n & (n - 1) == 0):
            data = devices // (fsdp * tensor)
            if parts % (data * fsdp) == 0:
                yield Mesh(data=data, fsdp=fsdp, tensor=tensor)


def table(found: list) -> str:
    rows = [
        (
            p.topology,
            " x ".join(map(str, p.mesh.values())),
            p.needed / GIB,
            "yes" if p.fits else "no",
            p.step_seconds if p.fits else None,
            p.chip_hours if p.fits else None,
        )
        for p in found
    ]
    return text_table(("slice", "data x fsdp x tensor", "GiB a device", "fits", "s a step", "chip-hours"), rows)


def described(p) -> str:
    """A plan in words and tables."""
    mesh = " ".join(f"{axis}={size}" for axis, size in p.mesh.items())
    lines = [f"{p.config} on {p.topology}: {p.chips} chips, {mesh}. Planned: compiled, and not run.", ""]
    memory = [(kind, size / GIB) for kind, size in p.memory.items()] + [("needed", p.needed / GIB)]
    lines += [text_table(("memory a device", "GiB"), [*memory, ("available", p.available / GIB)]), ""]
    if not p.fits:
        lines.append("does not fit: more chips, --mesh.fsdp or --mesh.tensor, --train.accumulate, or --remat=full")
        return "\n".join(lines)
    rows = [(c.kind, c.axes, c.count, c.sent / GIB) for c in p.collectives]
    lines += [
        text_table(("collective", "over", "times a step", "GiB sent a device"), rows) if rows else "nothing is sent",
        "",
    ]
    lines += [f"{p.flops / 1e12:.3g} TFLOP and {p.hbm / GIB:.3g} GiB of HBM traffic a device and step"]
    limits = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in p.seconds.items())
    lines += [f"a step takes at least {1e3 * p.step_seconds:.3g} ms: {limits}, if all of it overlaps"]
    lines += [
        f"{p.steps:,} steps: {p.steps * p.step_seconds / 3600:.3g} hours, {p.chip_hours:.3g} chip-hours at the least"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])

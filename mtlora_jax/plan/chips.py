"""TPU generations: what a chip does and holds, and the slices that exist, by the published system architectures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from mtlora_jax.engine.flops import RATES
from mtlora_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """A generation, by what each of its devices does and holds.

    Attributes:
      flops: multiplications and additions in bfloat16 a second.
      hbm: bytes of memory.
      hbm_rate: its bytes a second.
      link_rate: bytes a second to one neighbour, one way.
      slices: topologies, small to large; not all there are.
      devices: of a chip, as JAX counts them.
    """

    flops: float
    hbm: float
    hbm_rate: float
    link_rate: float
    slices: tuple[str, ...]
    devices: int = 1


FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS = {
    "v5e": Chip(RATES["TPU v5 lite"], 16 * 2**30, 819e9, 45e9, FLAT),
    "v5p": Chip(RATES["TPU v5"], 95 * 2**30, 2765e9, 90e9, CUBES),
    "v6e": Chip(RATES["TPU v6 lite"], 32 * 2**30, 1638e9, 90e9, FLAT),
    "tpu7x": Chip(RATES["TPU7x"], 192 * 2**30 / 2, 7380e9 / 2, 100e9 / 2, CUBES, devices=2),
}


def chip_of(topology: str) -> tuple[str, Chip]:
    """The generation of `v5e:4x4`, or of `v5e`. Raises UserError for one that is not known."""
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise UserError(f"--topology={topology}: give a generation, {', '.join(CHIPS)}, and a slice, such as v5e:4x4")
    return name, CHIPS[name]


def chips_of(topology: str) -> int:
    """How many chips `v5e:4x4` has. Raises UserError where it says no slice."""
    name, chip = chip_of(topology)
    sizes = topology.partition(":")[2].split("x")
    if len(sizes) != chip.slices[0].count("x") + 1 or not all(size.isdigit() and int(size) for size in sizes):
        like = f"{name}:{chip.slices[2]}"
        raise UserError(f"--topology={topology}: a slice is sizes with x between them, such as {like}")
    return math.prod(map(int, sizes))


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a slice, which can be compiled for and not run.

    Raises:
      UserError: there is no such slice, or no TPU compiler.
    """
    from jax.experimental import topologies

    # A host has four chips; a slice of one chip has a host of its own.
    bounds = (1, 1, 1) if chips_of(topology) == 1 else (2, 2, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, chips_per_host_bounds=bounds)
    except Exception as error:  # jax's own, and of what it loads
        if "libtpu" in str(error).lower() or isinstance(error, ImportError):
            raise UserError(f'the TPU compiler is not to be had: pip install "jax[tpu]" ({error})') from None
        raise UserError(f"--topology={topology}: {str(error).splitlines()[0][:200]}") from None
    return found.devices

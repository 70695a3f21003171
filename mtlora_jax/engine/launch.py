"""Many processes as one run: how each finds out which it is, before any device is touched.

Cloud TPU, TPUs on GKE (JobSet) and SLURM tell by themselves; anywhere else each process is told, by flags or by
`JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. Nothing of it set, a process is a run of its own.
"""

import glob
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mtlora_jax.errors import UserError, one_line

FLAGS = ("coordinator", "processes", "process")
"""Of the doors: `HOST:PORT` of process 0, how many processes there are, and which this is, from 0."""
VARIABLES = dict(zip(FLAGS, ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), strict=True))


@dataclass(frozen=True)
class Launch:
    """What JAX is told to find the other processes; without an address it asks the cluster.

    Attributes:
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are.
      process: this one's number.
      where: who says so, for messages.
    """

    coordinator: str | None
    processes: int | None
    process: int | None
    where: str


def launch_of(flags: Mapping[str, str | None], environ: Mapping[str, str], on_tpu: bool = False) -> Launch | None:
    """How this process is to join the others; None where there are no others.

    Args:
      flags: values of `FLAGS`, or None.
      environ: environment variables.
      on_tpu: this machine has TPUs, whose metadata may name other hosts.

    Raises:
      UserError: some of what is needed is missing, or no number, or out of range.
    """
    if any(flags.get(name) for name in FLAGS):
        return _told({name: flags.get(name) for name in FLAGS}, {name: f"--{name}" for name in FLAGS})
    if any(environ.get(VARIABLES[name]) for name in ("processes", "process")):
        return _told({name: environ.get(VARIABLES[name]) for name in FLAGS}, VARIABLES)
    # Inside srun alone: a batch script also sees how many tasks its steps would have.
    if "SLURM_STEP_NODELIST" in environ and int(environ.get("SLURM_NTASKS", "1")) > 1:
        return Launch(None, None, None, "SLURM")
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    if "," in workers or int(environ.get("MEGASCALE_NUM_SLICES", "1")) > 1:
        return Launch(None, None, None, "GKE")
    return Launch(None, None, None, "Cloud TPU") if on_tpu and not workers else None


def _told(values: Mapping[str, str | None], names: Mapping[str, str]) -> Launch:
    if missing := [names[name] for name in FLAGS if not values[name]]:
        raise UserError(f"{', '.join(missing)} missing: many processes need {', '.join(names[n] for n in FLAGS)}")
    numbers = {}
    for name in ("processes", "process"):
        if not str(values[name]).isdigit():
            raise UserError(f"{names[name]} must be a number, not {values[name]!r}")
        numbers[name] = int(values[name])
    if not numbers["process"] < numbers["processes"]:
        raise UserError(f"{names['process']} must lie between 0 and {numbers['processes'] - 1}: it counts from 0")
    if not values["coordinator"].rpartition(":")[2].isdigit() or ":" not in values["coordinator"]:
        raise UserError(f"{names['coordinator']} must be HOST:PORT of process 0, not {values['coordinator']!r}")
    return Launch(values["coordinator"], **numbers, where=names["coordinator"])


def join(flags: Mapping[str, str | None]) -> None:
    """Joins the other processes of this run, if there are any; only process 0 still writes to stdout then.

    Raises:
      UserError: see `launch_of`; or the others cannot be reached.
    """
    launch = launch_of(flags, os.environ, _has_tpus())
    if launch is None:
        return
    import jax

    # Signals are the loop's: it agrees with the other processes on the step after which all stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if launch.coordinator is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(launch.coordinator, launch.processes, launch.process)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{launch.where}: the other processes are not reached: {one_line(error)[:200]}") from None
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    else:
        of = f"{jax.process_count()} processes" if jax.process_count() > 1 else "one process"
        print(f"{launch.where}: {of}, {jax.device_count()} devices", file=sys.stderr)


def _has_tpus() -> bool:
    return bool(importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")))

"""A recipe's real training step, compiled for devices that are not there, and what that says about memory and time."""

import re
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mtlora_jax.config import Config
from mtlora_jax.engine import tables
from mtlora_jax.engine.dry_run import shaped, size
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.mesh import batch_sharding, batch_shards, check_batch_size, make_mesh, replicated
from mtlora_jax.engine.optim import schedule
from mtlora_jax.engine.partition import split_variables
from mtlora_jax.engine.sharding import bytes_per_device, shardings
from mtlora_jax.engine.state import State, abstract_variables, optimizer_of, weight_labels
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.engine.workload import Workload
from mtlora_jax.plan.chips import chip_of, devices_of
from mtlora_jax.plan.program import Collective, Program

OVERFLOW = re.compile(r"Used ([\d.]+)([GMK]) of [\d.]+[GMK] hbm")
TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([GMK])\) exceeds")
"""What the compiler says of a program that does not fit: all it needs, or what it needs beside its arguments."""
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Plan:
    """What a step needs; bytes and FLOPs are of one device, which is a chip but for TPU7x, that has two.

    Attributes:
      config, topology, chips, mesh: what was planned.
      steps: of the whole recipe.
      memory: bytes by kind of buffer; of a step that does not fit, what is known of it.
      needed: their sum, or what the compiler says it would take.
      available: bytes of HBM.
      flops: of matrix products and convolutions.
      hbm: bytes through HBM.
      collectives: what is sent, by kind and mesh axes.
      seconds: at the least, by what limits: `compute`, `hbm` and `network`.
    """

    config: str
    topology: str
    chips: int
    mesh: dict[str, int]
    steps: int
    memory: dict[str, float]
    needed: float
    available: float
    flops: float
    hbm: float = 0.0
    collectives: tuple[Collective, ...] = ()
    seconds: dict[str, float] | None = None

    @property
    def fits(self) -> bool:
        return self.seconds is not None

    @property
    def step_seconds(self) -> float:
        """The longest of what limits a step, if all of it overlaps: no step is faster."""
        return max(self.seconds.values())

    @property
    def chip_hours(self) -> float:
        return self.steps * self.step_seconds * self.chips / 3600

    def as_json(self) -> dict[str, Any]:
        derived = {"step_seconds": self.step_seconds, "chip_hours": self.chip_hours} if self.fits else {}
        return {"planned": True, **asdict(self), "fits": self.fits, **derived}


def plan(config: Config, topology: str, base_dtype: str | None = None) -> Plan:
    """Compiles a config's step for a slice.

    Args:
      base_dtype: what frozen weights are stored in; the compute dtype, if it is not said.

    Raises:
      UserError: no such slice, no TPU compiler, a mesh or a batch that does not divide.
    """
    _, chip = chip_of(topology)
    config, workload = shaped(config)
    devices = devices_of(topology)
    mesh = make_mesh(config.mesh, devices)
    check_batch_size(config.train.batch_size, mesh, parts=config.train.accumulate)
    state, frozen, batch, optimizer = abstract_start(
        config, workload, mesh, jnp.dtype(base_dtype or getattr(config, "dtype", "float32"))
    )
    rate = schedule(config.optim, config.train.steps)
    step = make_train_step(workload, optimizer, rate, config.seed, mesh, config.train.accumulate)
    kinds = {"frozen": frozen, "trainable": state.trainable, "optimizer": state.opt_state, "mutable": state.mutable}
    memory = {kind: bytes_per_device(workload.axes, tree, mesh) for kind, tree in kinds.items()}
    memory["batch"] = size(batch) // batch_shards(mesh)
    told = {
        "config": config.name,
        "topology": topology,
        "chips": len(devices) // chip.devices,
        "mesh": dict(mesh.shape),
        "steps": config.train.steps,
        "available": chip.hbm,
        "flops": 2 * macs(step, state, frozen, batch) / len(devices),
    }
    if sum(memory.values()) > chip.hbm:
        return Plan(**told, memory=memory, needed=sum(memory.values()))
    try:
        compiled = step.lower(state, frozen, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if beside := TEMPORARIES.search(str(error)):
            memory["temporaries"] = float(beside[1]) * UNITS[beside[2]]
        used = OVERFLOW.search(str(error))
        needed = float(used[1]) * UNITS[used[2]] if used else sum(memory.values())
        return Plan(**told, memory=memory, needed=needed)
    analysis = compiled.memory_analysis()
    memory |= {
        "temporaries": analysis.temp_size_in_bytes,
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
    program = Program(compiled.as_text(), mesh.shape)
    collectives, hbm = tuple(program.collectives()), program.hbm_bytes()
    # A ring over one axis of the torus has a link in each direction.
    seconds = {
        "compute": told["flops"] / chip.flops,
        "hbm": hbm / chip.hbm_rate,
        "network": sum(collective.sent for collective in collectives) / (2 * chip.link_rate),
    }
    needed = sum(memory.values())
    return Plan(**told, memory=memory, needed=needed, hbm=hbm, collectives=collectives, seconds=seconds)


def abstract_start(config: Config, workload: Workload, mesh: jax.sharding.Mesh, base_dtype: Any) -> tuple:
    """A run before its first step as shapes with shardings: state, frozen weights, batch; and its optimizer."""
    variables = abstract_variables(workload, config)
    labels = weight_labels(workload, variables)
    trainable, frozen, mutable = split_variables(variables, labels)
    optimizer = optimizer_of(workload, config, trainable, labels)

    def placed(tree: Any, dtype: Any = None) -> Any:
        flat = tables.flatten(tree)

        def of(path: str, x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            # Scales stay as they are: the codes beside them are what the weights are stored in.
            stored = f"{path.rpartition('/')[0]}/codes" in flat
            cast = dtype is not None and jnp.issubdtype(x.dtype, jnp.floating) and not stored
            return jax.ShapeDtypeStruct(x.shape, dtype if cast else x.dtype, sharding=sharding)

        leaves = map(of, flat, flat.values(), jax.tree.leaves(shardings(workload.axes, tree, mesh)))
        return jax.tree.unflatten(jax.tree.structure(tree), list(leaves))

    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    opt_state = placed(jax.eval_shape(optimizer.init, trainable))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)),
        workload.abstract_batch(config.train.batch_size),
    )
    state = State(step, placed(trainable), opt_state, placed(mutable))
    return state, placed(frozen, base_dtype), batch, optimizer

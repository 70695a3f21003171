"""Multiplications that a function asks for, counted in its traced program: exact, immediate, without a compiler; and
how many of them devices can do in a second.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jax.sharding import Mesh

from mtlora_jax.engine.program import Columns, everything, inner_program, live_equations

RATES: Mapping[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12 / 2,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Multiplications and additions in bfloat16 a second, by what a device's kind begins with; as published, dense."""


def rate_of(kind: str) -> float:
    """Of the devices of a kind; 0 where it is not known."""
    return next((rate for name, rate in RATES.items() if kind.startswith(name)), 0.0)


class Work:
    """The multiplications and additions of a training step, counted once for every shape of its batches; 0 on devices
    of unknown rate.

    Args:
      step: `(state, frozen, batch)`.
      mesh: of the devices that share it.
    """

    def __init__(self, step: Callable, mesh: Mesh):
        self._step, self._counted = step, {}
        self.rate = mesh.size * rate_of(mesh.devices.flat[0].device_kind)

    def __call__(self, state: Any, frozen: Any, batch: Any) -> float:
        if not self.rate:
            return 0.0
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        if shapes not in self._counted:
            self._counted[shapes] = 2.0 * macs(self._step, state, frozen, batch)
        return self._counted[shapes]


def macs(fn: Callable, *args) -> int:
    """Multiply-accumulates of matrix products and convolutions on the way to `fn`'s outputs.

    Dead code is left out, as a compiler would; a loop's body is counted once for every turn, a kernel by its own
    estimate, or, where it has none, for every turn of its grid, those that it skips included.

    Args:
      *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    return _count(jaxpr, everything(jaxpr.outvars))


def _count(jaxpr: Jaxpr, live: list[Columns]) -> int:
    total = 0
    for eqn, outputs in live_equations(jaxpr, live)[0]:
        inner = inner_program(eqn, outputs)
        turns = eqn.params["mesh"].size if eqn.primitive.name == "shard_map" else eqn.params.get("length", 1)
        total += _own(eqn) if inner is None else turns * _count(*inner)
    return total


def _own(eqn) -> int:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_features
    if eqn.primitive.name == "pallas_call":
        estimate, grid = eqn.params["cost_estimate"], eqn.params["grid_mapping"].grid
        return math.prod(grid) * _in_turn(eqn.params["jaxpr"]) if estimate is None else estimate.flops // 2
    return 0


def _in_turn(jaxpr: Jaxpr) -> int:
    """Of one turn of a kernel, the dearest branch taken."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            total += max(_in_turn(branch.jaxpr) for branch in eqn.params["branches"])
        elif eqn.primitive.name in ("scan", "jit", "pjit"):
            total += eqn.params.get("length", 1) * _in_turn(eqn.params["jaxpr"].jaxpr)
        else:
            total += _own(eqn)
    return total

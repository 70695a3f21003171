"""Multiplications that a function asks for, counted in its traced program: exact, immediate, without a compiler."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import Jaxpr

from mtlora_jax.engine.program import Columns, everything, inner_program, live_equations


def macs(fn: Callable, *args) -> int:
    """Multiply-accumulates of matrix products and convolutions on the way to `fn`'s outputs.

    Dead code is left out, as a compiler would; a loop's body is counted once for every turn.

    Args:
      *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    return _count(jaxpr, everything(jaxpr.outvars))


def _count(jaxpr: Jaxpr, live: list[Columns]) -> int:
    total = 0
    for eqn, outputs in live_equations(jaxpr, live)[0]:
        inner = inner_program(eqn, outputs)
        total += _own(eqn) if inner is None else eqn.params.get("length", 1) * _count(*inner)
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
    return 0

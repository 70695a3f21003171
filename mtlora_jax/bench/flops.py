"""Multiplications that a function asks for, counted in its traced program: exact, immediate, without a compiler."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def macs(fn: Callable, *args) -> int:
    """Multiply-accumulates of matrix products and convolutions on the way to `fn`'s outputs.

    Dead code is left out, as a compiler would; a loop's body is counted once for every turn.

    Args:
      *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    closed = jax.make_jaxpr(fn)(*args)
    return _count(closed.jaxpr, set(closed.jaxpr.outvars))


def _count(jaxpr: Jaxpr, wanted: set) -> int:
    total = 0
    for eqn in reversed(jaxpr.eqns):
        live = [var in wanted for var in eqn.outvars]
        if not any(live):
            continue
        inner = _inner(eqn)
        if inner is None:
            total += _own(eqn)
            wanted.update(var for var in eqn.invars if not hasattr(var, "val"))
            continue
        outs = inner.outvars
        of = {out for out, alive in zip(outs, live, strict=False) if alive} if len(outs) == len(live) else set(outs)
        total += eqn.params.get("length", 1) * _count(inner, {var for var in of if not hasattr(var, "val")})
        wanted.update(var for var in eqn.invars if not hasattr(var, "val"))
    return total


def _inner(eqn) -> Jaxpr | None:
    for value in eqn.params.values():
        if isinstance(value, ClosedJaxpr):
            return value.jaxpr
        if isinstance(value, Jaxpr):
            return value
    return None


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

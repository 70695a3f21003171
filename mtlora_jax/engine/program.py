"""A walk over a traced program: which equations its outputs need, and which of its inputs nothing reads.

Looked at column by column of the last axis, where that is told: adapters join their matrices to one, multiply once, and
cut the product; the columns of a part that nobody uses lead back to its own matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from mtlora_jax.engine.tables import flatten

Equation = Any
"""An equation of a jaxpr."""
Columns = np.ndarray
"""bool `[C]`: which columns of an array's last axis are needed; one column for a scalar."""


def live_equations(jaxpr: Jaxpr, live: Sequence[Columns]) -> tuple[list[tuple[Equation, list[Columns]]], list[Columns]]:
    """The equations that some outputs depend on.

    Args:
      jaxpr: a program, whose calls and loops are looked into.
      live: what is needed of each output; see `everything`.

    Returns:
      The equations in order, each with what is needed of its outputs; and what is of the program's inputs.
    """
    wanted: dict[Any, Columns] = {}

    def want(variables: Sequence, columns: Sequence[Columns]) -> None:
        for var, needed in zip(variables, columns, strict=True):
            if not hasattr(var, "val"):  # a literal
                wanted[var] = wanted.get(var, False) | needed

    want(jaxpr.outvars, live)
    needed = []
    for eqn in reversed(jaxpr.eqns):
        outputs = [wanted.get(var, _columns(var, False)) for var in eqn.outvars]
        # No column of an array without numbers can be needed; the array can.
        if any(map(np.any, outputs)) or any(var in wanted and not wanted[var].size for var in eqn.outvars):
            needed.append((eqn, outputs))
            want(eqn.invars, _needed_inputs(eqn, outputs))
    return needed[::-1], [wanted.get(var, _columns(var, False)) for var in jaxpr.invars]


def everything(variables: Sequence) -> list[Columns]:
    """All columns of each variable."""
    return [_columns(var, True) for var in variables]


def _columns(var: Any, needed: bool) -> Columns:
    return np.full(var.aval.shape[-1:] or 1, needed)


def inner_program(eqn: Equation, outputs: list[Columns]) -> tuple[Jaxpr, list[Columns]] | None:
    """The program that a call or a scan runs, with an input and an output for each of the equation's; else None.

    Args:
      outputs: what is needed of the equation's outputs.

    Returns:
      The program, and what is needed of its own outputs: all of a scan's, for what one turn carries to the next may be
      read there.
    """
    for value in eqn.params.values():
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(inner, Jaxpr):
            same = len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
            if not same or eqn.primitive.name in ("while", "cond"):
                return None
            return inner, everything(inner.outvars) if eqn.primitive.name == "scan" else outputs
    return None


def _needed_inputs(eqn: Equation, outputs: list[Columns]) -> list[Columns]:
    """What is needed of an equation's inputs, of which some output is needed."""
    kind, all_inputs = eqn.primitive.name, everything(eqn.invars)
    if inner := inner_program(eqn, outputs):
        needed = live_equations(*inner)[1]
        if kind == "scan":
            # A turn's own arrays lack the axis that is scanned: their columns can be others.
            return [_columns(var, columns.any()) for var, columns in zip(eqn.invars, needed, strict=True)]
        return needed
    last = len(eqn.outvars[0].aval.shape) - 1
    if kind in ("convert_element_type", "name"):
        return outputs
    if kind == "slice":
        start, limit = eqn.params["start_indices"][last], eqn.params["limit_indices"][last]
        step = 1 if eqn.params["strides"] is None else eqn.params["strides"][last]
        needed = np.zeros_like(all_inputs[0])
        needed[start:limit:step] = outputs[0]
        return [needed]
    if kind == "concatenate" and eqn.params["dimension"] == last:
        return np.split(outputs[0], np.cumsum([len(columns) for columns in all_inputs])[:-1])
    if kind == "dot_general":
        (_, contracted), (_, batch) = eqn.params["dimension_numbers"]
        if len(eqn.invars[1].aval.shape) - 1 not in (*contracted, *batch):
            return [all_inputs[0], outputs[0]]
    return all_inputs


def unread_leaves(fn: Callable, tree: Any, *args: Any) -> set[str]:
    """The paths of `tree`'s leaves that no output of `fn(tree, *args)` depends on.

    Args:
      tree, *args: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.
    """
    jaxpr = jax.make_jaxpr(fn)(tree, *args).jaxpr
    read = live_equations(jaxpr, everything(jaxpr.outvars))[1]
    return {path for path, columns in zip(flatten(tree), read, strict=False) if not columns.any()}

"""A program's equations written in another way, where a compiler computes the first way slowly.

The results are the same to rounding. Done to the traced program, so that the mathematics stays as it is written in the
papers, can be differentiated in every direction, and gains in all methods, heads and domains at once:

- JAX's transpose of `x @ w` has the cotangent on the left in the weight's gradient. The CPU backend transposes a left
  operand that is contracted along its rows, and computes whatever made it inside the strided loop: there, the smaller
  operand belongs on the left.
- A product over very few terms, such as a task's rank of 4, is sums of products that the compiler fuses into what reads
  it; as a matrix product its result is written, and read again. On a TPU only where the result is as narrow: of wide
  ones every term may be laid out anew for what reads it (two stages of MTLoRA, planned: 13.7 GiB of traffic to 9.4).
- The gradient of a table of few rows, such as tasks' mixtures, adds up what many tokens read from each. As a
  scatter, a GPU does so one token after the other: 1.2 ms for 4,096 tokens of 4 tasks, and four projections a layer.
- A sum over a leading axis of few entries, the task streams', takes the CPU backend ten times as long as adding them.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import reduce, wraps
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

FEW_TERMS = 8
"""Terms of a product that are written out."""
CHECKPOINT = ("checkpoint", "remat2")
"""What versions of JAX call the equation of `jax.checkpoint`."""
FEW_ROWS = 32
"""Rows of a table whose gradient is a sum for each."""
FEW_STREAMS = 32
"""Entries of a leading axis that are added one by one."""


def rewritten(fn: Callable, platform: str) -> Callable:
    """`fn` with the equations of its program rewritten, those inside of loops and calls too.

    Args:
      fn: takes and returns trees of arrays; to be traced, as by `jax.jit`.
      platform: what it will run on, a `jax.Device.platform`.
    """

    @wraps(fn)
    def call(*args):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), platform)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return call


def _evaluate(jaxpr: Jaxpr, consts: Sequence, args: Sequence, platform: str) -> list:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    kept: list[Any] = []

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    def evaluate_kept() -> None:
        """Equations that stay, together: JAX takes long to begin with each alone."""
        made = dict.fromkeys(var for eqn in kept for var in eqn.outvars)
        needed = dict.fromkeys(
            var for eqn in kept for var in eqn.invars if not isinstance(var, Literal) and var not in made
        )
        alone = jaxpr.replace(constvars=[], invars=list(needed), outvars=list(made), eqns=kept.copy())
        outputs = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, needed))
        values.update(zip(made, outputs, strict=True))
        kept.clear()

    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            eqn = eqn.replace(params={**eqn.params, "jaxpr": _body(eqn.params["jaxpr"], platform)})
        write = _other_way(eqn, platform)
        if write is None:
            kept.append(eqn)
            continue
        if kept:
            evaluate_kept()
        # Names go along, so that a profile tells where in the model an operation comes from.
        name = str(eqn.source_info.name_stack)
        with jax.named_scope(name) if name else contextlib.nullcontext():
            values.update(zip(eqn.outvars, write(*map(read, eqn.invars)), strict=True))
    if kept:
        evaluate_kept()
    return [read(var) for var in jaxpr.outvars]


def _other_way(eqn: Any, platform: str) -> Callable[..., Sequence] | None:
    """`inputs -> outputs` of an equation, written in another way; None where it stays."""
    kind, params, avals = eqn.primitive.name, eqn.params, [var.aval for var in eqn.invars]
    if kind in ("jit", "pjit"):
        inner = params["jaxpr"]
        return lambda *inputs: _evaluate(inner.jaxpr, inner.consts, inputs, platform)
    if kind in CHECKPOINT and not params["prevent_cse"]:
        return lambda *inputs: _evaluate(params["jaxpr"], (), inputs, platform)
    if kind == "dot_general":
        out, dimension_numbers = eqn.outvars[0].aval, params["dimension_numbers"]
        few = _terms(avals[0], dimension_numbers) <= FEW_TERMS
        if few and (platform != "tpu" or out.shape[-1:] <= (FEW_TERMS,)):
            return lambda x, y: [_sum_of_products(x, y, out, dimension_numbers)]
        if platform == "cpu" and _belongs_right(*avals, dimension_numbers):
            return lambda x, y: [_exchanged(x, y, **params)]
    if kind == "scatter-add" and _adds_to_few_rows(*avals, **params):
        return lambda *inputs: [_sums_of_rows(*inputs)]
    if kind == "reduce_sum" and platform == "cpu" and tuple(params["axes"]) == (0,):
        x = avals[0]
        if x.ndim > 2 and 1 < x.shape[0] <= FEW_STREAMS:
            return lambda x: [reduce(add, list(x))]
    return None


def _body(body: ClosedJaxpr, platform: str) -> ClosedJaxpr:
    """A loop's body, rewritten."""

    def run(*args):
        return _evaluate(body.jaxpr, body.consts, args, platform)

    return jax.make_jaxpr(run)(*body.in_avals)


def _terms(x: Any, dimension_numbers: Any) -> int:
    (contracted, _), _ = dimension_numbers
    return math.prod(x.shape[axis] for axis in contracted)


def _sum_of_products(x: jax.Array, y: jax.Array, out: Any, dimension_numbers: Any) -> jax.Array:
    """A product, term by term; in float32, as matrix units add."""
    contracted, batch = dimension_numbers

    def terms(a: jax.Array, axes: Sequence[int], shared: Sequence[int]) -> jax.Array:
        """`[terms, *batch axes, *free axes]`."""
        free = [axis for axis in range(a.ndim) if axis not in (*axes, *shared)]
        shape = [a.shape[axis] for axis in (*shared, *free)]
        return a.transpose(*axes, *shared, *free).reshape(-1, *shape)

    x, y = (terms(a, axes, shared) for a, axes, shared in zip((x, y), contracted, batch, strict=True))
    kept = 1 + len(batch[0])
    x = x.reshape(*x.shape, *(1,) * (y.ndim - kept))
    y = y.reshape(*y.shape[:kept], *(1,) * (x.ndim - y.ndim), *y.shape[kept:])
    wide = jnp.promote_types(out.dtype, jnp.float32)
    products = (a.astype(wide) * b.astype(wide) for a, b in zip(x, y, strict=True))
    return reduce(add, products).astype(out.dtype)


def _adds_to_few_rows(table: Any, indices: Any, added: Any, **params: Any) -> bool:
    """Whether whole rows are added, those out of range to none, and the table has few."""
    dims, row, before = params["dimension_numbers"], table.shape[1:], added.ndim - table.ndim + 1
    return (
        table.shape[0] <= FEW_ROWS
        and jnp.issubdtype(table.dtype, jnp.floating)
        and dims.inserted_window_dims == dims.scatter_dims_to_operand_dims == (0,)
        and not dims.operand_batching_dims
        and tuple(dims.update_window_dims) == tuple(range(before, added.ndim))
        and added.shape[before:] == row
        and params["mode"] != jax.lax.GatherScatterMode.CLIP
    )


def _sums_of_rows(table: jax.Array, indices: jax.Array, added: jax.Array) -> jax.Array:
    added = added.reshape(-1, *table.shape[1:])
    own = indices.reshape(1, -1) == jnp.arange(len(table), dtype=indices.dtype).reshape(-1, 1)
    own = own.reshape(*own.shape, *(1,) * (table.ndim - 1))
    return table + jnp.where(own, added[None], 0).sum(1)


def _belongs_right(x: Any, y: Any, dimension_numbers: Any) -> bool:
    """Whether the left operand is contracted along its rows, and is the larger one."""
    (contracted, _), (batch, _) = dimension_numbers
    rows = [axis for axis in range(x.ndim) if axis not in batch]
    first, last = rows[: len(contracted)], rows[-len(contracted) :]
    return sorted(contracted) == first != last and x.size > y.size


def _exchanged(x: jax.Array, y: jax.Array, dimension_numbers: Any, **params: Any) -> jax.Array:
    """The product with its operands exchanged, and its result's axes put back."""
    contracted, batch = dimension_numbers
    kept, of_y = len(batch[0]), y.ndim - len(batch[1]) - len(contracted[1])
    out = jax.lax.dot_general(
        y,
        x,
        (contracted[::-1], batch[::-1]),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    axes = range(out.ndim)
    return out.transpose(*axes[:kept], *axes[kept + of_y :], *axes[kept : kept + of_y])

"""`fn(base + u_t B_t) A_t` of every task in one kernel for NVIDIA GPUs: no task's stream is ever in memory.

Its backward pass computes the streams again. Written with Pallas, for its Triton compiler.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mtlora_jax.engine.rewrite import rewritten

ROWS, COLUMNS, RANK = 64, 64, 16
"""Examples' tokens and columns that a program holds at a time; what ranks are filled up to."""
PROGRAMS = 2048
"""About how many programs share the rows of the backward pass; each adds up the matrices' gradients for its own."""

Elementwise = Callable[[jax.Array], jax.Array]


def down(base: jax.Array, low: jax.Array, up: jax.Array, a: jax.Array, fn: Elementwise, interpret: bool = False):
    """`fn(base + low_t up_t) a_t` for every task.

    Args:
      base: `[..., O]`, O a multiple of 64.
      low, up, a: `[T, ..., R]`, `[T, R, O]`, `[T, O, Q]`, R and Q up to 16.
      fn: elementwise; it is applied in float32.
      interpret: run without a GPU, slowly.

    Returns:
      `[T, ..., Q]`.
    """
    T, Q = low.shape[0], a.shape[-1]
    rows = base.reshape(-1, base.shape[-1]), low.reshape(T, -1, low.shape[-1])
    # Ranks are filled up with zeros, which add nothing; matrices are small.
    up = jnp.pad(up, ((0, 0), (0, RANK - up.shape[1]), (0, 0)))
    a = jnp.pad(a, ((0, 0), (0, 0), (0, RANK - Q)))
    return _down(*rows, up, a, fn, Q, interpret).reshape(T, *base.shape[:-1], Q)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _down(base, low, up, a, fn, Q, interpret):
    return _forward(base, low, up, a, fn, Q, interpret)[0]


def _forward(base, low, up, a, fn, Q, interpret):
    N, (T, _, R) = len(base), low.shape
    out = pl.pallas_call(
        partial(_forward_kernel, fn=fn, N=N, R=R, Q=Q),
        grid=(pl.cdiv(N, ROWS),),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 4,
        out_specs=pl.BlockSpec(memory_space=pl.ANY),
        out_shape=jax.ShapeDtypeStruct((T * N * Q,), base.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        cost_estimate=_cost(base, low, a, products=1),
        name="deferred_streams",
    )(base.reshape(-1), low.reshape(-1), up, a)
    return out.reshape(T, N, Q), (base, low, up, a)


def _backward(fn, Q, interpret, kept, cotangent):
    base, low, up, a = kept
    (N, O), (T, _, R) = base.shape, low.shape
    blocks = O // COLUMNS
    each = pl.cdiv(pl.cdiv(N, ROWS) * blocks, PROGRAMS)
    programs = pl.cdiv(pl.cdiv(N, ROWS), each)
    d_base, d_low, d_up, d_a = pl.pallas_call(
        partial(_backward_kernel, fn=fn, N=N, R=R, Q=Q, each=each),
        grid=(programs, blocks),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 5,
        out_specs=[
            pl.BlockSpec(memory_space=pl.ANY),
            pl.BlockSpec(memory_space=pl.ANY),
            pl.BlockSpec((None, T, RANK, COLUMNS), lambda program, block: (program, 0, 0, block)),
            pl.BlockSpec((None, T, COLUMNS, RANK), lambda program, block: (program, 0, block, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((N * O,), base.dtype),
            jax.ShapeDtypeStruct((blocks * T * N * R,), jnp.float32),
            jax.ShapeDtypeStruct((programs, T, RANK, O), jnp.float32),
            jax.ShapeDtypeStruct((programs, T, O, RANK), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        cost_estimate=_cost(base, low, a, products=5),
        name="deferred_streams_backward",
    )(base.reshape(-1), low.reshape(-1), up, a, cotangent.reshape(-1))
    d_low = d_low.reshape(blocks, T, N, R).sum(0).astype(low.dtype)
    return d_base.reshape(N, O), d_low, d_up.sum(0).astype(up.dtype), d_a.sum(0).astype(a.dtype)


_down.defvjp(_forward, _backward)


def _cost(base: jax.Array, low: jax.Array, a: jax.Array, products: int) -> pl.CostEstimate:
    (N, O), T = base.shape, len(low)
    ranks = (low.shape[-1] + a.shape[-1]) / 2
    flops = int(2 * (products + 1) * T * N * O * ranks)
    moved = (products + 1) // 2 * base.size * base.dtype.itemsize
    return pl.CostEstimate(flops=flops, transcendentals=T * N * O, bytes_accessed=moved)


class _Rows:
    """Some rows, and how they are read and written in flat arrays.

    Args:
      first: number of the first.
      N: how many rows there are in all.
    """

    def __init__(self, first: jax.Array, N: int):
        self.row = first + jnp.arange(ROWS, dtype=jnp.int32)
        self.N, self.is_row = N, self.row < N

    def wide(self, column: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
        """Where `[ROWS, COLUMNS]` of an array `[N, width]` are, and which are."""
        at = self.row[:, None] * width + (column + jnp.arange(COLUMNS, dtype=jnp.int32))[None, :]
        return at, jnp.broadcast_to(self.is_row[:, None], at.shape)

    def narrow(self, task: int | jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
        """Where `[ROWS, RANK]` of an array `[T, N, rank]` are, and which are."""
        column = jnp.arange(RANK, dtype=jnp.int32)
        at = (task * self.N + self.row)[:, None] * rank + column[None, :]
        return at, self.is_row[:, None] & (column < rank)[None, :]


def _load(ref, place) -> jax.Array:
    at, mask = place
    return triton.load(ref.at[at], mask=mask, other=0.0)


def _store(ref, place, values: jax.Array) -> None:
    at, mask = place
    triton.store(ref.at[at], values.astype(ref.dtype), mask=mask)


def _forward_kernel(base, low, up, a, out, *, fn, N, R, Q):
    T, O, fn = len(up), up.shape[-1], rewritten(fn, "triton")
    rows = _Rows(pl.program_id(0) * ROWS, N)
    lows = [_load(low, rows.narrow(task, R)) for task in range(T)]

    def columns(block, totals):
        column = block * COLUMNS
        x = _load(base, rows.wide(column, O)).astype(jnp.float32)
        added = []
        for task, total in enumerate(totals):
            h = fn(x + triton.dot(lows[task], up[task, :, pl.ds(column, COLUMNS)]))
            added.append(total + triton.dot(h.astype(a.dtype), a[task, pl.ds(column, COLUMNS), :]))
        return tuple(added)

    zeros = (jnp.zeros((ROWS, RANK), jnp.float32),) * T
    for task, total in enumerate(jax.lax.fori_loop(0, O // COLUMNS, columns, zeros)):
        _store(out, rows.narrow(task, Q), total)


def _backward_kernel(base, low, up, a, cotangent, d_base, d_low, d_up, d_a, *, fn, N, R, Q, each):
    T, O = len(up), up.shape[-1]
    block, first = pl.program_id(1), pl.program_id(0) * each
    column = block * COLUMNS
    ups = [up[task, :, pl.ds(column, COLUMNS)] for task in range(T)]
    downs = [a[task, pl.ds(column, COLUMNS), :] for task in range(T)]

    def both_ways(x, d_h):
        h, pull = jax.vjp(fn, x)
        return h, *pull(d_h.astype(h.dtype))

    both_ways = rewritten(both_ways, "triton")

    def some(number, totals):
        rows = _Rows(number * ROWS, N)
        x = _load(base, rows.wide(column, O)).astype(jnp.float32)
        d_x, added = jnp.zeros((ROWS, COLUMNS), jnp.float32), []
        for task, (total_up, total_a) in enumerate(totals):
            u, g = _load(low, rows.narrow(task, R)), _load(cotangent, rows.narrow(task, Q))
            h, d = both_ways(x + triton.dot(u, ups[task]), triton.dot(g, downs[task], trans_b=True))
            d_x, half = d_x + d, d.astype(u.dtype)
            _store(d_low, rows.narrow(block * T + task, R), triton.dot(half, ups[task], trans_b=True))
            total_up = total_up + triton.dot(u, half, trans_a=True)
            added.append((total_up, total_a + triton.dot(h.astype(g.dtype), g, trans_a=True)))
        _store(d_base, rows.wide(column, O), d_x)
        return tuple(added)

    zeros = (jnp.zeros((RANK, COLUMNS), jnp.float32), jnp.zeros((COLUMNS, RANK), jnp.float32))
    last = jnp.minimum(first + each, pl.cdiv(N, ROWS))
    for task, (total_up, total_a) in enumerate(jax.lax.fori_loop(first, last, some, (zeros,) * T)):
        d_up[task], d_a[task] = total_up, total_a

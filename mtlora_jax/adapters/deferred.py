"""Task streams that are not in memory: a function of one array and of each task's low-rank update.

Between the two layers of an MLP a task's stream is `fn(base + u_t B_t)`, for every task four times as wide as the
model, and all that reads it is a down-projection to a few columns. Whoever needs it computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from mtlora_jax.engine.mesh import BATCH_AXES, on_nvidia, traced


@struct.dataclass
class Deferred:
    """Streams of T tasks, `fn(base + u_t B_t)`.

    Attributes:
      base: `[B, ..., O]`.
      low: u, `[T, B, ..., R]`.
      up: B, `[T, R, O]`.
      functions: elementwise, one after the other.
    """

    base: jax.Array
    low: jax.Array
    up: jax.Array
    functions: tuple[Callable[[jax.Array], jax.Array], ...] = struct.field(pytree_node=False, default=())

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.low), *self.base.shape)

    def then(self, fn: Callable[[jax.Array], jax.Array]) -> Deferred:
        """The streams after one more elementwise function."""
        return self.replace(functions=(*self.functions, fn))

    def compute(self) -> jax.Array:
        """`[T, B, ..., O]`."""
        return self.fn(jnp.einsum("t...r,tro->t...o", self.low, self.up) + self.base[None])

    def fn(self, x: jax.Array) -> jax.Array:
        return reduce(lambda x, fn: fn(x), self.functions, x)

    def down(self, a: jax.Array) -> jax.Array:
        """Every task's stream by its own matrix: `[T, O, Q]` gives `[T, B, ..., Q]`.

        In half precision on an NVIDIA GPU by one kernel; a mesh's devices each run it on their own examples.
        """
        if not (on_nvidia() and self.has_kernel(a)):
            return jnp.einsum("t...i,tir->t...r", self.compute(), a)
        # Imported where needed: it takes a second.
        from mtlora_jax.adapters.deferred_kernel import down

        kernel, mesh = partial(down, fn=self.fn), traced()
        kernel = kernel if mesh is None else on_each_device(kernel, mesh)
        return kernel(self.base, self.low, self.up, a)

    def has_kernel(self, a: jax.Array) -> bool:
        """Whether there is one for such streams: half precision, ranks up to 16, a width that 64 divides."""
        half, narrow = self.base.dtype in (jnp.bfloat16, jnp.float16), max(self.low.shape[-1], a.shape[-1]) <= 16
        return half and narrow and self.base.shape[-1] % 64 == 0 and self.base.size < 2**31


def on_each_device(kernel: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """`kernel(base, low, up, a)` over a batch that a mesh cuts."""
    rows, of_tasks, whole = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES), PartitionSpec()
    specs = (rows, of_tasks, whole, whole)
    return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=of_tasks, check_vma=False)

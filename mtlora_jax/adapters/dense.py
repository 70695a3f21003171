"""The linear layer that may carry an adapter. The adapter computes, this layer owns the kernel."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlora_jax.adapters import leaf, quantized
from mtlora_jax.adapters.dropout import dropout
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.registry import method_of
from mtlora_jax.adapters.spec import Spec
from mtlora_jax.adapters.streams import Streams, shared, smap


class Dense(nn.Module):
    """`nn.Dense`, at exactly its parameter paths, with an optional adapter in the `lora` collection.

    Attributes:
      features: output width.
      use_bias: whether there is a bias.
      adapter: the method's spec, or None for a plain layer.
      slots: names of equal column blocks that get an adapter each (`("q", "k", "v")` of a fused projection): the
        same function as separate layers, concatenated.
      dtype: compute dtype; None keeps the input's. Leaves and kernel are stored in float32.
      quantize: the kernel is frozen, and stored in 8 or 4 bits; see `quantized`.
      gather: `(name, part) -> leaf`, brings together for its products a leaf of which devices hold parts: a kernel's
        codes before they become floats, which are several times the bytes, and what of an adapter no task owns. A
        kernel that the product casts is left to the compiler.
    """

    features: int
    use_bias: bool = True
    adapter: Spec | None = None
    slots: tuple[str, ...] = ()
    dtype: jnp.dtype | None = None
    kernel_init: Callable = nn.initializers.lecun_normal()
    quantize: quantized.Kind = "none"
    gather: Callable[[str, jax.Array], jax.Array] = lambda name, part: part

    @nn.compact
    def __call__(
        self,
        x: jax.Array | Streams,
        *,
        task_id: jax.Array | None = None,
        train: bool = False,
        projection: jax.Array | None = None,
    ):
        """Maps `[..., in]` to `[..., features]`.

        Args:
          x: an array, or `Streams`. Without an adapter every stream gets the same kernel.
          task_id: `[B]` or `[B, L]`, for methods in which every example belongs to one task.
          train: whether adapter dropout draws from the `dropout` rng stream.
          projection: `[T, features, P]`, a linear map that follows for each task's stream, in a layer without bias and
            without task updates. It is composed with the kernel, so that task streams cost one product of in x P
            instead of two: exact up to association. An array, and the shared stream, are not projected.

        Raises:
          ValueError: adapter leaves are missing, of another shape, or not wanted; names the path. Or the slots do
            not divide the width.
        """
        if self.features % len(self.slots or ("",)):
            raise ValueError(f"{len(self.slots)} slots do not divide a layer {self.features} wide")
        if self.dtype is not None:
            x = smap(lambda a: a.astype(self.dtype), x)
        d_in = shared(x).shape[-1]
        # Base leaves are declared first: adapters must not change how they are drawn.
        kernel = self._kernel((d_in, self.features), shared(x).dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        if self.adapter is None:
            leaf.refuse(self)
            slots = [{}]
        else:
            declared = method_of(self.adapter).declare(self.adapter, d_in, self.features // max(len(self.slots), 1))
            slots = [
                {name: of if name == leaf.TASKS else self.gather(name, of) for name, of in leaves.items()}
                for leaves in leaf.read(self, declared, self.slots)
            ]

        def key() -> jax.Array | None:
            return self.make_rng("dropout") if train and self.adapter is not None and self.adapter.dropout > 0 else None

        if projection is not None and isinstance(x, Streams):
            (leaves,) = slots
            y = self._apply(leaves, kernel, None, x.shared, task_id, key())
            return Streams(y, projected(self.adapter, leaves, kernel, projection, x.tasks, key()))
        kernels = jnp.split(kernel, len(slots), axis=1) if self.slots else [kernel]
        biases = [None] * len(slots) if bias is None else jnp.split(bias, len(slots))
        outputs = [
            self._apply(leaves, w, b, x, task_id, key()) for leaves, w, b in zip(slots, kernels, biases, strict=True)
        ]
        return jax.tree.map(lambda *columns: jnp.concatenate(columns, axis=-1), *outputs) if self.slots else outputs[0]

    def _kernel(self, shape: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
        if self.quantize == "none":
            kernel = self.param("kernel", self.kernel_init, shape)
            return self.gather("kernel", kernel) if kernel.dtype == dtype else kernel
        stored = self.param("kernel", quantized.initializer(self.kernel_init, self.quantize), shape)
        return quantized.dequantize(jax.tree.map(partial(self.gather, "kernel"), stored), dtype)

    def _apply(self, leaves, kernel, bias, x, task_id, key):
        if self.adapter is None:
            return smap(lambda a: affine(a, kernel, bias), x)
        method = method_of(self.adapter)
        return method.apply(self.adapter, leaves, kernel, bias, x, task_id=task_id, dropout_key=key)


def projected(adapter: Spec | None, leaves, kernel, projection, x_tasks, key) -> jax.Array:
    """`P_t (W + A B) x_t` of every task's stream, the matrices multiplied first.

    Args:
      projection: `[T, out, P]`.
      x_tasks: `[T, ..., in]`.
      key: decides dropout of the update's input; None drops nothing.

    Returns:
      `[T, ..., P]`.
    """
    dtype = x_tasks.dtype
    composed = jnp.einsum("io,top->tip", kernel, projection).astype(dtype)
    y = jnp.einsum("t...i,tip->t...p", x_tasks, composed)
    if adapter is None:
        return y
    A, B = method_of(adapter).export(adapter, leaves, kernel)
    B = jnp.einsum("ro,top->trp", B, projection).astype(dtype)
    return y + jnp.einsum("t...r,trp->t...p", dropout(x_tasks, adapter.dropout, key) @ A.astype(dtype), B)

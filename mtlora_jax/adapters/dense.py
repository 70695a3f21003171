"""The linear layer that may carry an adapter. The adapter computes, this layer owns the kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlora_jax.adapters import leaf
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
    """

    features: int
    use_bias: bool = True
    adapter: Spec | None = None
    slots: tuple[str, ...] = ()
    dtype: jnp.dtype | None = None
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array | Streams, *, task_id: jax.Array | None = None, train: bool = False):
        """Maps `[..., in]` to `[..., features]`.

        Args:
          x: an array, or `Streams`. Without an adapter every stream gets the same kernel.
          task_id: `[B]` or `[B, L]`, for methods in which every example belongs to one task.
          train: whether adapter dropout draws from the `dropout` rng stream.

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
        kernel = self.param("kernel", self.kernel_init, (d_in, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        if self.adapter is None:
            leaf.refuse(self)
            return smap(lambda a: affine(a, kernel, bias), x)

        method = method_of(self.adapter)
        parts = max(len(self.slots), 1)
        outputs = []
        for leaves, w, b in zip(
            leaf.read(self, method.leaves(self.adapter, d_in, self.features // parts), self.slots),
            jnp.split(kernel, parts, axis=1),
            [None] * parts if bias is None else jnp.split(bias, parts),
            strict=True,
        ):
            key = self.make_rng("dropout") if train and self.adapter.dropout > 0 else None
            outputs.append(method.apply(self.adapter, leaves, w, b, x, task_id=task_id, dropout_key=key))
        return jax.tree.map(lambda *columns: jnp.concatenate(columns, axis=-1), *outputs) if self.slots else outputs[0]

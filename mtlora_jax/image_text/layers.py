"""The layers of BART: attention and MLP, each added to the stream and normed, with adapters at their projections."""

import jax
from flax import linen as nn
from flax import struct

from mtlora_jax.adapters.dropout import dropout
from mtlora_jax.engine.mesh import along_batch
from mtlora_jax.language.attention import Mask, attend
from mtlora_jax.language.sites import Sites

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
SITES = tuple(
    f"{side}/{part}"
    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn")))
    for part in (*(f"{a}/{name}" for a in attentions for name in PROJECTIONS), "fc1", "fc2")
)
"""Projections of a layer that may carry an adapter."""

Cache = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Keys and values `[layers, B, M, K, H]` of the decoder's positions, and those of the encoder's states."""


@struct.dataclass
class Context:
    """What every layer reads beside its input.

    Attributes:
      mask: what a query sees among its own side's tokens.
      task_id: `[B]`, or None.
      states: the decoder's: `[B, M, D]`, the encoder's states; None where the cache holds their keys and values.
      states_mask: which of them are seen.
      filled: how many positions of the cache are taken.
      train: whether dropout draws from the `dropout` rng stream.
    """

    mask: Mask
    task_id: jax.Array | None
    states: jax.Array | None = None
    states_mask: Mask | None = None
    filled: jax.Array | None = None
    train: bool = struct.field(pytree_node=False, default=False)


def norm(name: str | None, dtype) -> nn.LayerNorm:
    """Statistics in float32 whatever the compute dtype."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)


def drop(module: nn.Module, rate: float, x: jax.Array, train: bool) -> jax.Array:
    """Dropout while training, by the module's `dropout` rng stream."""
    return dropout(x, rate, module.make_rng("dropout") if train and rate else None)


class Projections(Sites):
    """Base of modules whose fresh kernels have the spec's deviation."""

    def deviation(self) -> float:
        return self.spec.init_std


class Attention(Projections):
    """Multi-head attention.

    Attributes:
      path: of the module among `SITES`, `encoder/self_attn` and the like.
      heads: K.
    """

    site: str = ""
    heads: int = 1

    @nn.compact
    def __call__(self, x, source, past, mask: Mask, context: Context) -> tuple[jax.Array, tuple]:
        """Maps `[B, L, D]` to the same, and tells the keys and values that were read.

        Args:
          x: queries.
          source: `[B, M, D]`, what keys and values are made of; None takes those of `past`.
          past: `(keys, values)` `[B, M, K, H]`, or None. With a source its positions from `context.filled` on are
            written, where that is given, and all of it otherwise.
        """
        D, K = x.shape[-1], self.heads

        def project(name: str, y: jax.Array) -> jax.Array:
            return self.project(f"{self.site}/{name}_proj", D, True, y, context)

        def heads(name: str, y: jax.Array) -> jax.Array:
            return project(name, y).reshape(*y.shape[:2], K, D // K)

        q = heads("q", x)
        if source is None:
            k, v = past
        else:
            k, v = heads("k", source), heads("v", source)
            if past is not None and context.filled is not None:
                at = (0, context.filled, 0, 0)
                k, v = (
                    jax.lax.dynamic_update_slice(old, y.astype(old.dtype), at)
                    for old, y in zip(past, (k, v), strict=True)
                )
        rate = self.spec.attention_dropout
        weights_drop = (rate, self.make_rng("dropout")) if context.train and rate else None
        y = attend(q, k, v, mask, weights_drop).reshape(x.shape)
        return project("out", y), (k, v)


class Layer(Projections):
    """Base of both sides' layers: branches whose sum with the stream is normed."""

    def added(self, name: str, x: jax.Array, branch: jax.Array, context: Context) -> jax.Array:
        """The norm of the stream and a branch."""
        return norm(name, self.dtype)(along_batch(x + drop(self, self.spec.dropout, branch, context.train)))

    def attention(self, path: str, heads: int, x, source, past, mask: Mask, context: Context):
        """An attention's output and its keys and values; see `Attention`."""
        fields = self.spec, self.adapters, self.dtype, path, heads
        return Attention(*fields, name=path.rpartition("/")[2])(x, source, past, mask, context)

    def mlp(self, side: str, hidden: int, x: jax.Array, context: Context) -> jax.Array:
        """`fc2(gelu(fc1(x)))`."""

        def project(name: str, features: int, y: jax.Array) -> jax.Array:
            return self.project(f"{side}/{name}", features, True, y, context)

        y = nn.gelu(project("fc1", hidden, x), approximate=False)
        return project("fc2", x.shape[-1], drop(self, self.spec.activation_dropout, y, context.train))


class EncoderLayer(Layer):
    """One layer of the encoder, in the form that `nn.scan` wants."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, None]:
        s = self.spec
        y, _ = self.attention("encoder/self_attn", s.encoder_heads, x, x, None, context.mask, context)
        x = self.added("self_attn_layer_norm", x, y, context)
        y = self.mlp("encoder", s.encoder_hidden, x, context)
        return self.added("final_layer_norm", x, y, context), None


class DecoderLayer(Layer):
    """One layer of the decoder, likewise, and its part of the cache."""

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, context: Context) -> tuple[jax.Array, Cache]:
        heads, states = self.spec.decoder_heads, context.states
        own, read = (None, None) if cache is None else (cache[:2], cache[2:])
        y, own = self.attention("decoder/self_attn", heads, x, x, own, context.mask, context)
        x = self.added("self_attn_layer_norm", x, y, context)
        across = context.replace(filled=None)
        y, read = self.attention("decoder/encoder_attn", heads, x, states, read, context.states_mask, across)
        x = self.added("encoder_attn_layer_norm", x, y, context)
        y = self.mlp("decoder", self.spec.decoder_hidden, x, context)
        return self.added("final_layer_norm", x, y, context), None if cache is None else (*own, *read)

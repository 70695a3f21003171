"""A decoder of Llama's kind, with adapters at the projections that a table names.

Layers are one `nn.scan`: their leaves have a leading axis of layers, and they compile once.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from mtlora_jax.adapters import Spec, quantized
from mtlora_jax.engine.mesh import along_batch
from mtlora_jax.engine.sharding import constrained
from mtlora_jax.language.attention import Mask, attend, lengths_of, mask_of, positions_of, within
from mtlora_jax.language.sites import Sites, check_table, leaf_axes, rematerialised
from mtlora_jax.text.rope import RopeScaling, frequencies_of, rotate

SITES = tuple(f"self_attn/{name}_proj" for name in "qkvo") + tuple(
    f"mlp/{name}_proj" for name in ("gate", "up", "down")
)
"""Projections of a layer that may carry an adapter."""
INTO, OUT_OF = "(q|k|v|gate|up)_proj", "(o|down)_proj"
"""Those from the model's width, and those back to it."""


@struct.dataclass
class Context:
    """What every layer reads beside its input.

    Attributes:
      positions: `[B, L]`.
      mask: what a query sees; see `language.attention.attend`.
      frequencies: `[H / 2]` or `[B, L, H / 2]`, rotary radians a position.
      task_id: `[B]` or `[B, L]`, or None.
      train: whether adapter dropout draws from the `dropout` rng stream.
    """

    positions: jax.Array
    mask: Mask
    frequencies: jax.Array
    task_id: jax.Array | None
    train: bool = struct.field(pytree_node=False)


Cache = tuple[jax.Array, jax.Array, jax.Array]
"""Keys and values `[layers, B, M, G, H]`, and how many of the M positions of each layer are filled."""


@dataclass(frozen=True)
class LlamaSpec:
    """The shape of a decoder.

    Attributes:
      vocab_size: V.
      hidden: D.
      intermediate: width of the MLP.
      layers: depth.
      heads, kv_heads: query heads, and key heads they share.
      head_dim: H; 0 takes `hidden / heads`.
      rope_theta: base of the rotary frequencies.
      rope_scaling: their change for long texts.
      rms_eps: what the norms add before they divide.
      tied: the head is the embedding.
      qkv_bias, o_bias, mlp_bias: which projections have biases.
      qk_norm: every head of q and of k is normed before it is rotated (Qwen3).
      window: a token sees at most so many, itself among them (Mistral); 0 for all before it.
      max_positions: longest text of pretraining.
    """

    vocab_size: int = 1280
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 0
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    rms_eps: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int = 0
    max_positions: int = 2048

    @property
    def head_width(self) -> int:
        """H."""
        return self.head_dim or self.hidden // self.heads

    def problems(self) -> str | None:
        """What is wrong with the shape, if anything."""
        sizes = ("vocab_size", "hidden", "intermediate", "layers", "heads", "kv_heads", "max_positions")
        if bad := next((name for name in sizes if getattr(self, name) < 1), None):
            return f"{bad} must be at least 1, not {getattr(self, bad)}"
        if self.heads % self.kv_heads:
            return f"{self.heads} heads cannot share {self.kv_heads} key heads evenly"
        if not self.head_dim and self.hidden % self.heads:
            return f"{self.heads} heads do not divide a hidden size of {self.hidden}; give head_dim"
        if self.window < 0:
            return f"window must not be negative, is {self.window}"
        if self.head_width % 2:
            return f"a head is {self.head_width} wide: rotary embeddings need an even width"
        return None


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, the division in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * scale.astype(x.dtype).reshape(*(1,) * (x.ndim - 1), -1)


class Projections(Sites):
    """Base of modules with projections, which a mesh cuts along the model's width. Leaves are brought together for
    their products: left to itself, the compiler sends parts of them round, and reads activations anew with each.

    Attributes:
      quantize: how kernels are stored; see `adapters.quantized`.
    """

    quantize: quantized.Kind = "none"

    def storage(self, site: str) -> dict[str, Any]:
        names = leaf_axes(None, "inner") if re.search(INTO, site) else leaf_axes("inner", None)
        return {"quantize": self.quantize, "gather": lambda name, part: constrained(part, names.get(name, ()))}


class Attention(Projections):
    """Grouped-query attention with rotary positions."""

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, context: Context) -> tuple[jax.Array, Cache | None]:
        """`[B, L, D]` to the same, and the layer's new cache."""
        s, H = self.spec, self.spec.head_width

        def heads(site: str, count: int) -> jax.Array:
            y = self.project(f"self_attn/{site}_proj", count * H, s.qkv_bias, x, context)
            return y.reshape(*y.shape[:2], count, H)

        q, k, v = heads("q", s.heads), heads("k", s.kv_heads), heads("v", s.kv_heads)
        if s.qk_norm:
            q, k = RMSNorm(s.rms_eps, name="q_norm")(q), RMSNorm(s.rms_eps, name="k_norm")(k)
        q, k = (rotate(y, context.positions, context.frequencies) for y in (q, k))
        if cache is not None:
            keys, values, filled = cache
            k = jax.lax.dynamic_update_slice(keys, k.astype(keys.dtype), (0, filled, 0, 0))
            v = jax.lax.dynamic_update_slice(values, v.astype(values.dtype), (0, filled, 0, 0))
            cache = k, v, filled + x.shape[1]
        y = attend(q, k, v, context.mask).reshape(*x.shape[:2], -1)
        return self.project("self_attn/o_proj", s.hidden, s.o_bias, y, context), cache


class MLP(Projections):
    """`down(silu(gate(x)) * up(x))`."""

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """`[B, L, D]` to the same."""
        s = self.spec

        def project(name: str, features: int, y: jax.Array) -> jax.Array:
            return self.project(f"mlp/{name}_proj", features, s.mlp_bias, y, context)

        return project("down", s.hidden, nn.silu(project("gate", s.intermediate, x)) * project("up", s.intermediate, x))


class Layer(nn.Module):
    """One decoder layer, in the form that `nn.scan` wants."""

    spec: LlamaSpec
    adapters: tuple[tuple[str, Spec], ...]
    dtype: jnp.dtype | None
    quantize: quantized.Kind

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, context: Context) -> tuple[jax.Array, Cache | None]:
        s, fields = self.spec, (self.spec, self.adapters, self.dtype, self.quantize)
        normed = RMSNorm(s.rms_eps, name="input_layernorm")(x)
        y, cache = Attention(*fields, name="self_attn")(normed, cache, context)
        x = along_batch(x + y)
        y = MLP(*fields, name="mlp")(RMSNorm(s.rms_eps, name="post_attention_layernorm")(x), context)
        return along_batch(x + y), cache


class Head(nn.Module):
    """Logits, accumulated in float32 whatever the states' dtype."""

    vocab_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.vocab_size))
        return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


class Llama(nn.Module):
    """The decoder.

    Attributes:
      spec: its shape.
      adapters: (regex, spec) rows, searched over `SITES`; the first that is found gives a projection its adapter.
      dtype: compute dtype; None computes in float32. Norms, softmax and logits are float32 in any case.
      remat: what the backward pass computes again; see `language.sites.REMAT`.
      reach: tokens of the longest segment that a row may hold; 0 for one that fills the row.
      quantize: how the projections' kernels are stored; see `adapters.quantized`. Embedding and head stay floats.
    """

    spec: LlamaSpec
    adapters: tuple[tuple[str, Spec], ...] = ()
    dtype: jnp.dtype | None = None
    remat: str = "none"
    reach: int = 0
    quantize: quantized.Kind = "none"

    def setup(self):
        s = self.spec
        self.check_table()
        self.embed_tokens = nn.Embed(s.vocab_size, s.hidden, embedding_init=nn.initializers.normal(0.02))
        self.layers = self._stack()(s, self.adapters, self.dtype, self.quantize)
        self.norm = RMSNorm(s.rms_eps)
        if not s.tied:
            self.lm_head = Head(s.vocab_size)

    def check_table(self) -> None:
        """Raises ValueError for a row of `adapters` that matches no projection, or cannot be read."""
        check_table(self.adapters, SITES)

    def _stack(self) -> Any:
        """`Layer` for all layers at once."""
        axes, rngs = {"params": 0, "lora": 0}, {"params": True, "lora": True, "dropout": True}
        if self.is_initializing():
            # Side by side instead of one after the other: leaves can be drawn without running the layers.
            return nn.vmap(Layer, axes, rngs, in_axes=None, out_axes=0, axis_size=self.spec.layers)
        layer = rematerialised(Layer, self.remat)
        return nn.scan(layer, axes, split_rngs=rngs, in_axes=(0, nn.broadcast), length=self.spec.layers)

    def __call__(
        self, tokens, *, attention_mask=None, segment_ids=None, task_id=None, train: bool = False
    ) -> jax.Array:
        """Logits of the next token.

        Args:
          tokens: `[B, L]` ids.
          attention_mask: `[B, L]`, 0 for padding, on either side, and 1 elsewhere. None: no padding.
          segment_ids: `[B, L]`, in the place of the mask: 0 for padding, 1, 2, 3, ... for texts packed into a row. A
            token sees itself and earlier tokens of its own segment.
          task_id: `[B]`, or `[B, L]`, for adapters that know tasks.
          train: whether adapter dropout draws from the `dropout` rng stream.

        Returns:
          `[B, L, V]` float32.
        """
        segment_ids = attention_mask if segment_ids is None else segment_ids
        return self.head(self.hidden(tokens, segment_ids=segment_ids, task_id=task_id, train=train))

    def hidden(self, tokens, *, segment_ids=None, task_id=None, train: bool = False) -> jax.Array:
        """The normed states before the head, `[B, L, D]`; arguments as for a call."""
        tokens = jnp.asarray(tokens)
        segment_ids = jnp.ones(tokens.shape, jnp.int32) if segment_ids is None else jnp.asarray(segment_ids)
        positions, lengths = positions_of(segment_ids), lengths_of(segment_ids)
        # The shorter one of a packed row's longest text and the model's window.
        mask = mask_of(segment_ids, min(filter(None, (self.reach, self.spec.window)), default=0))
        return self._run(tokens, positions, lengths, mask, None, task_id, train)[0]

    def empty_cache(self, batch: int, length: int) -> Cache:
        """A cache of `length` positions for decoding; see `language.decode`."""
        s = self.spec
        empty = jnp.zeros((s.layers, batch, length, s.kv_heads, s.head_width), self.dtype or jnp.float32)
        return empty, empty, jnp.zeros(s.layers, jnp.int32)

    def extend(self, tokens, positions, mask, cache, *, task_id=None) -> tuple[jax.Array, Any]:
        """The states of new tokens that also see cached ones, and the cache with them.

        Args:
          tokens, positions: `[B, L]`.
          mask: `[B, L, M]` bool over the cache's M positions.
          cache: see `empty_cache`.
        """
        lengths = jnp.broadcast_to(positions.max(1, keepdims=True) + 1, positions.shape)
        if self.spec.window:
            keys = jnp.arange(mask.shape[2])
            mask = mask & within(cache[2][0] + jnp.arange(tokens.shape[1]), keys, self.spec.window)[None]
        return self._run(tokens, positions, lengths, Mask(mask), cache, task_id, False)

    def _run(self, tokens, positions, lengths, mask, cache, task_id, train):
        s = self.spec
        x = along_batch(jnp.take(self.embed_tokens.embedding, tokens, axis=0).astype(self.dtype or jnp.float32))
        frequencies = frequencies_of(s.head_width, s.rope_theta, s.rope_scaling, lengths)
        x, cache = self.layers(x, cache, Context(positions, mask, frequencies, task_id, train))
        return self.norm(x[0] if self.is_initializing() else x), cache

    def head(self, x: jax.Array) -> jax.Array:
        """Logits `[..., V]` float32 of states `[..., D]`."""
        if not self.spec.tied:
            return self.lm_head(x)
        return jnp.matmul(x, self.embed_tokens.embedding.T.astype(x.dtype), preferred_element_type=jnp.float32)


def head_of(model: Llama, variables: Mapping[str, Any]) -> Callable[[jax.Array], jax.Array]:
    """`Llama.head`, for many calls: its weights are cast and brought together from their devices once."""
    tied, own = ("embed_tokens", "embedding", ("vocab", None)), ("lm_head", "kernel", (None, "vocab"))
    name, leaf, names = tied if model.spec.tied else own
    weights = variables["params"][name][leaf].astype(model.dtype or jnp.float32)
    params = {**variables["params"], name: {leaf: constrained(weights, names)}}
    return partial(model.apply, {"params": params}, method="head")


def init(model: Llama, seed: int) -> dict:
    """Fresh variables, for tracing: `engine.init.draw` evaluates the draws and nothing else."""
    base, adapters = jax.random.split(jax.random.key(seed))
    # One token: a fused attention kernel has none, and could not be mapped over the layers.
    tokens = jnp.zeros((1, 1), jnp.int32)
    return model.init({"params": base, "lora": adapters}, tokens, task_id=jnp.zeros((1,), jnp.int32))

"""BART (Lewis et al., ACL 2020), with pictures beside the encoder's text and adapters where a table says.

Layers of encoder and decoder are one `nn.scan` each: their leaves have a leading axis of layers. Norms follow what they
normalise, the head is the word embedding.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlora_jax.engine.mesh import along_batch
from mtlora_jax.image_text.layers import SITES, Cache, Context, DecoderLayer, EncoderLayer, drop, norm
from mtlora_jax.image_text.visual import VisualEmbedding, VisualSpec
from mtlora_jax.language.attention import Mask
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.language.sites import Table, check_table, rematerialised

OFFSET = 2
"""Rows of a position table before that of the first position."""


@dataclass(frozen=True)
class BartSpec:
    """The shape of a BART.

    Attributes:
      vocab_size: V.
      width: D.
      encoder_layers, decoder_layers: depths.
      encoder_heads, decoder_heads: attention heads.
      encoder_hidden, decoder_hidden: widths of the MLPs.
      positions: longest text.
      scale_embedding: multiply word embeddings by sqrt(D).
      dropout: probability of dropping an entry of the embeddings and of what a branch adds, while training.
      attention_dropout: of dropping an attention weight.
      activation_dropout: of dropping an entry inside an MLP.
      init_std: deviation of fresh kernels and embeddings.
      bos, pad, eos, start: ids of the tokens that begin, fill and end a text, and that the decoder starts from.
      visual: how pictures become tokens; None for text alone.
    """

    vocab_size: int = 50265
    width: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_heads: int = 12
    decoder_heads: int = 12
    encoder_hidden: int = 3072
    decoder_hidden: int = 3072
    positions: int = 1024
    scale_embedding: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    init_std: float = 0.02
    bos: int = 0
    pad: int = 1
    eos: int = 2
    start: int = 2
    visual: VisualSpec | None = None

    def problems(self) -> str | None:
        """What is wrong with the shape, if anything."""
        sizes = ("vocab_size", "width", "encoder_layers", "decoder_layers", "encoder_heads", "decoder_heads")
        sizes += ("encoder_hidden", "decoder_hidden", "positions")
        if bad := next((name for name in sizes if getattr(self, name) < 1), None):
            return f"{bad} must be at least 1, not {getattr(self, bad)}"
        for side in ("encoder", "decoder"):
            if self.width % getattr(self, f"{side}_heads"):
                return f"{getattr(self, f'{side}_heads')} heads do not divide a width of {self.width}"
        rates = ("dropout", "attention_dropout", "activation_dropout")
        if bad := next((name for name in rates if not 0 <= getattr(self, name) < 1), None):
            return f"{bad} must lie in [0, 1), not {getattr(self, bad)}"
        return None if self.init_std > 0 else f"init_std must be positive, not {self.init_std}"


class Side(nn.Module):
    """Encoder or decoder: positions, the norm of embeddings, and the layers.

    Attributes:
      layer: `EncoderLayer` or `DecoderLayer`.
      depth: how many.
    """

    layer: Any
    depth: int
    spec: BartSpec
    adapters: Table
    dtype: jnp.dtype | None
    remat: str

    def setup(self):
        s = self.spec
        init = nn.initializers.normal(s.init_std)
        self.embed_positions = self.param("embed_positions", init, (s.positions + OFFSET, s.width))
        self.layernorm_embedding = norm(None, self.dtype)
        self.layers = self._stack()(s, self.adapters, self.dtype)

    def _stack(self) -> Any:
        """All layers at once."""
        axes, rngs = {"params": 0, "lora": 0}, {"params": True, "lora": True, "dropout": True}
        if self.is_initializing():
            # Side by side instead of one after the other: leaves can be drawn without running the layers.
            return nn.vmap(self.layer, axes, rngs, in_axes=None, out_axes=0, axis_size=self.depth)
        layer = rematerialised(self.layer, self.remat)
        in_axes = nn.broadcast if self.layer is EncoderLayer else (0, nn.broadcast)
        return nn.scan(layer, axes, split_rngs=rngs, in_axes=in_axes, length=self.depth)

    def embed(self, words: jax.Array, first: Any = 0) -> jax.Array:
        """Normed embeddings of tokens, `[B, L, D]`, the first of which is at position `first`."""
        at = jax.lax.dynamic_slice_in_dim(self.embed_positions, OFFSET + first, words.shape[1])
        return self.layernorm_embedding(words + at[None].astype(words.dtype))

    def __call__(self, x: jax.Array, *args: Any) -> tuple[jax.Array, Any]:
        """The layers; arguments as theirs."""
        x, cache = self.layers(x, *args)
        return (x[0] if self.is_initializing() else x), cache


class Bart(nn.Module):
    """The model.

    Attributes:
      spec: its shape.
      adapters: (regex, spec) rows, searched over `SITES`; the first that is found gives a projection its adapter.
      dtype: compute dtype; None computes in float32. Norms, softmax and logits are float32 in any case.
      remat: what the backward pass computes again; see `language.sites.REMAT`.
    """

    spec: BartSpec
    adapters: Table = ()
    dtype: jnp.dtype | None = None
    remat: str = "none"

    def setup(self):
        s, fields = self.spec, (self.spec, self.adapters, self.dtype, self.remat)
        check_table(self.adapters, SITES)
        self.shared = nn.Embed(s.vocab_size, s.width, embedding_init=nn.initializers.normal(s.init_std))
        self.encoder = Side(EncoderLayer, s.encoder_layers, *fields)
        self.decoder = Side(DecoderLayer, s.decoder_layers, *fields)
        if s.visual is not None:
            self.visual_embedding = VisualEmbedding(s.visual, s.width, self.dtype)
        self.final_logits_bias = self.param("final_logits_bias", nn.initializers.zeros, (s.vocab_size,))

    def __call__(self, input_ids, features=None, boxes=None, targets=None, task_id=None, **more) -> jax.Array:
        """Logits of every target by teacher forcing.

        Args:
          input_ids: `[B, L]`, padded on the right.
          features: `[B, N, F]` of one picture or `[B, I, N, F]` of several; None for text alone.
          boxes: `[B, N, 4]` or `[B, I, N, 4]`; None for zeros.
          targets: `[B, M]`, IGNORE where there is none.
          task_id: `[B]`, for adapters that know tasks.
          more: see `hidden`.

        Returns:
          `[B, M, V]` float32.
        """
        return self.head(self.hidden(input_ids, features, boxes, targets, task_id, **more))

    def hidden(
        self,
        input_ids,
        features=None,
        boxes=None,
        targets=None,
        task_id=None,
        *,
        attention_mask=None,
        decoder_input_ids=None,
        visual_mask=None,
        image_ids=None,
        object_ids=None,
        train: bool = False,
    ) -> jax.Array:
        """The decoder's states before the head, `[B, M, D]`.

        Args:
          input_ids, features, boxes, targets, task_id: as for a call.
          attention_mask: `[B, L]`, 0 for padding; None: wherever the padding token is.
          decoder_input_ids: `[B, M]`; None: the targets, one to the right.
          visual_mask: `[B, tokens]`, 0 for visual tokens that no one sees; None: all are seen.
          image_ids, object_ids: see `VisualEmbedding`.
          train: whether dropout draws from the `dropout` rng stream.
        """
        visual = {"visual_mask": visual_mask, "image_ids": image_ids, "object_ids": object_ids}
        states, mask = self.encode(
            input_ids, features, boxes, task_id, attention_mask=attention_mask, train=train, **visual
        )
        if decoder_input_ids is None:
            decoder_input_ids = shifted(self.spec, jnp.asarray(targets))
        return self.decode(states, mask, decoder_input_ids, task_id, train=train)

    def encode(
        self,
        input_ids,
        features=None,
        boxes=None,
        task_id=None,
        *,
        attention_mask=None,
        visual_mask=None,
        image_ids=None,
        object_ids=None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """The encoder's states `[B, M, D]`, of the text and then of the pictures, and which are seen, `[B, M]` bool."""
        s, input_ids = self.spec, jnp.asarray(input_ids)
        seen = (input_ids != s.pad) if attention_mask is None else jnp.asarray(attention_mask) > 0
        x = self.encoder.embed(self._words(input_ids))
        if features is not None:
            features = jnp.asarray(features, self.dtype or jnp.float32)
            features = features[:, None] if features.ndim == 3 else features
            boxes = None if boxes is None else jnp.asarray(boxes).reshape(*features.shape[:3], 4)
            table = self.shared.embedding
            tokens = self.visual_embedding(features, boxes, table, image_ids=image_ids, object_ids=object_ids)
            x = jnp.concatenate([x, tokens.astype(x.dtype)], axis=1)
            visible = jnp.ones(tokens.shape[:2], bool) if visual_mask is None else jnp.asarray(visual_mask) > 0
            seen = jnp.concatenate([seen, visible], axis=1)
        x = along_batch(drop(self, s.dropout, x, train))
        return self.encoder(x, Context(Mask(seen[:, None]), task_id, train=train))[0], seen

    def decode(self, states, mask, decoder_input_ids, task_id=None, *, train: bool = False) -> jax.Array:
        """The decoder's states `[B, M, D]` of all positions, each seeing those before it."""
        length = decoder_input_ids.shape[1]
        x = along_batch(drop(self, self.spec.dropout, self.decoder.embed(self._words(decoder_input_ids)), train))
        causal = Mask(jnp.tril(jnp.ones((1, length, length), bool)))
        return self.decoder(x, None, Context(causal, task_id, states, Mask(mask[:, None]), train=train))[0]

    def empty_cache(self, batch: int, length: int, read: int) -> Cache:
        """A cache of `length` positions and `read` encoder states for decoding."""
        s = self.spec
        shape = (s.decoder_layers, batch, length, s.decoder_heads, s.width // s.decoder_heads)
        own = jnp.zeros(shape, self.dtype or jnp.float32)
        across = jnp.zeros((*shape[:2], read, *shape[3:]), own.dtype)
        return own, own, across, across

    def extend(self, tokens, filled, cache: Cache, mask, states=None, task_id=None) -> tuple[jax.Array, Cache]:
        """The state of one more token, and the cache with it.

        Args:
          tokens: `[B, 1]`.
          filled: how many positions the cache holds.
          mask: `[B, M]` bool, the encoder's states that are seen.
          states: `[B, M, D]` at the first token, whose call keeps their keys and values; None afterwards.
        """
        seen = Mask((jnp.arange(cache[0].shape[2]) <= filled)[None, None])
        context = Context(seen, task_id, states, Mask(mask[:, None]), filled)
        return self.decoder(self.decoder.embed(self._words(tokens), filled), cache, context)

    def _words(self, ids) -> jax.Array:
        scale = self.spec.width**0.5 if self.spec.scale_embedding else 1.0
        return (jnp.take(self.shared.embedding, ids, axis=0) * scale).astype(self.dtype or jnp.float32)

    def head(self, x: jax.Array) -> jax.Array:
        """Logits `[..., V]` float32 of states `[..., D]`."""
        words = self.shared.embedding.T.astype(x.dtype)
        logits = jnp.matmul(x, words, preferred_element_type=jnp.float32)
        return logits + self.final_logits_bias.reshape(*(1,) * (x.ndim - 1), -1)


def shifted(spec: BartSpec, targets: jax.Array) -> jax.Array:
    """What the decoder reads: its start, then every target but the last; padding where there is no target."""
    before = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=spec.start)
    return jnp.where(before == IGNORE, spec.pad, before)


def init(model: Bart, seed: int) -> dict:
    """Fresh variables, for tracing: `engine.init.draw` evaluates the draws and nothing else."""
    base, adapters = jax.random.split(jax.random.key(seed))
    tokens, visual = jnp.zeros((1, 1), jnp.int32), model.spec.visual
    features = None if visual is None else jnp.zeros((1, 1, visual.tokens, visual.features))
    rngs = {"params": base, "lora": adapters}
    return model.init(rngs, tokens, features, None, tokens, jnp.zeros((1,), jnp.int32))

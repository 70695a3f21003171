"""Attention with grouped queries, causal among the tokens of one segment."""

import jax
import jax.numpy as jnp

MASKED = -1e30
"""A logit that softmax turns into 0, finite so that rows without any token stay finite."""


def positions_of(segment_ids: jax.Array) -> jax.Array:
    """`[B, L]`, each token's position in its segment, from 0; padding is not counted."""
    length = segment_ids.shape[1]
    order = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], segment_ids.shape)
    starts = (segment_ids > 0) & (segment_ids != jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1])
    first = jax.lax.cummax(jnp.where(starts, order, 0), axis=1)
    return jnp.where(segment_ids > 0, order - first, 0)


def lengths_of(segment_ids: jax.Array) -> jax.Array:
    """`[B, L]`, how many tokens each token's segment has; of padding it means nothing."""
    length = segment_ids.shape[1]
    order = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], segment_ids.shape)
    ends = segment_ids != jnp.pad(segment_ids, ((0, 0), (0, 1)), constant_values=-1)[:, 1:]
    last = jax.lax.cummin(jnp.where(ends, order, length), axis=1, reverse=True)
    return jnp.take_along_axis(positions_of(segment_ids), last, axis=1) + 1


def causal_mask(segment_ids: jax.Array) -> jax.Array:
    """`[B, L, L]` bool, query by key: which tokens a token sees.

    Args:
      segment_ids: `[B, L]`; a token sees itself and earlier tokens of its own segment, and no padding (0).
    """
    length = segment_ids.shape[1]
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((1, length, length), bool))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention, the softmax in float32; keys are shared by groups of queries, and never repeated.

    Args:
      q: `[B, L, K, H]`, K query heads.
      k, v: `[B, M, G, H]`, G divides K; query head i reads key head `i // (K / G)`.
      mask: `[B, L, M]` bool.

    Returns:
      `[B, L, K, H]`.
    """
    B, L, K, H = q.shape
    G = k.shape[2]
    grouped = q.reshape(B, L, G, K // G, H)
    logits = jnp.einsum("blgqh,bmgh->bgqlm", grouped, k).astype(jnp.float32) * H**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED), axis=-1).astype(q.dtype)
    return jnp.einsum("bgqlm,bmgh->blgqh", weights, v).reshape(B, L, K, H)

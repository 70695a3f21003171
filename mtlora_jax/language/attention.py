"""Causal attention with grouped queries, among tokens of one segment."""

import jax
import jax.numpy as jnp

MASKED = -1e30
"""A logit that softmax turns into 0, finite so that rows without any token stay finite."""


def causal_mask(segments: jax.Array) -> jax.Array:
    """`[B, L, L]` bool, query by key: who sees whom.

    Args:
      segments: `[B, L]`; a token sees itself and earlier tokens of its own number, 0 (padding) is seen by nobody.
    """
    length = segments.shape[1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
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

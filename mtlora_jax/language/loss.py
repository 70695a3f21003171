"""Next-token losses from hidden states, without holding the logits of all positions."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from mtlora_jax.language.packing import IGNORE

MAX_LOGITS = 1 << 25
"""Logits that are held at once: 128 MiB in float32."""


def token_losses(head: Callable, vocab_size: int, hidden: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Cross-entropy and greedy prediction of every position.

    Positions are cut into chunks of at most `MAX_LOGITS` logits, which the backward pass computes again.

    Args:
      head: maps `[..., D]` to logits `[..., V]`.
      vocab_size: V.
      hidden: `[B, L, D]`.
      targets: `[B, L]`, the token to predict, or IGNORE.

    Returns:
      `nll [B, L]` float32, 0 where the target is IGNORE, and `prediction [B, L]`, the likeliest token.
    """
    B, L, D = hidden.shape
    V = vocab_size
    chunks = next(n for n in range(1, B * L + 1) if B * L % n == 0 and B * L // n * V <= max(MAX_LOGITS, V))

    def chunk(of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, target = of
        logits = head(x)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
        return jnp.where(target == IGNORE, 0, nll), logits.argmax(-1).astype(jnp.int32)

    if chunks == 1:
        nll, prediction = chunk((hidden, targets))
        return {"nll": nll, "prediction": prediction}
    cut = hidden.reshape(chunks, -1, D), targets.reshape(chunks, -1)
    nll, prediction = jax.lax.map(jax.checkpoint(chunk), cut)
    return {"nll": nll.reshape(B, L), "prediction": prediction.reshape(B, L)}


def perplexity_sums(nll: jax.Array, counted: jax.Array) -> dict[str, jax.Array]:
    """What losses add up from: `nll`, and how many `tokens` were counted (`[B, L]` bool)."""
    return {"nll": (nll * counted).sum(), "tokens": counted.sum().astype(jnp.float32)}


def mean_loss(sums: Mapping[str, jax.Array]) -> jax.Array:
    """Nats a token; 0 where there was none."""
    return sums["nll"] / jnp.maximum(sums["tokens"], 1)

"""Next-token losses from hidden states, without holding the logits of all positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtlora_jax.language.packing import IGNORE

MAX_LOGITS = 1 << 25
"""Logits that a device holds at once: 128 MiB in float32."""
CHUNKS = 16
"""Into how many parts rows are cut at least, where they are long enough; parts without a target are skipped."""


def token_losses(
    head: Callable, vocab_size: int, hidden: jax.Array, targets: jax.Array, devices: int = 1
) -> dict[str, jax.Array]:
    """Cross-entropy and greedy prediction of every position that has a target.

    Those come first in each row, and rows are cut into chunks of at most `MAX_LOGITS` logits, which the backward pass
    computes again. A chunk in which no row has a target is skipped: instruction tuning learns a tenth of the positions.

    Args:
      head: maps `[..., D]` to logits `[..., V]`.
      vocab_size: V.
      hidden: `[B, L, D]`.
      targets: `[B, L]`, the token to predict, or IGNORE.
      devices: over how many rows are cut.

    Returns:
      `nll [B, L]` float32, and `prediction [B, L]`, the likeliest token; both 0 where the target is IGNORE.
    """
    B, L, _ = hidden.shape
    most = max(devices * MAX_LOGITS // (B * vocab_size), 1)
    size = min(most, -(-L // CHUNKS))
    order = jnp.argsort(targets == IGNORE, axis=1, stable=True)

    def cut(x: jax.Array, filler: int) -> jax.Array:
        """`[B, L, ...]` to `[chunks, B, size, ...]`, in order."""
        x = jnp.take_along_axis(x, order.reshape(B, L, *(1,) * (x.ndim - 2)), axis=1)
        x = jnp.pad(x, ((0, 0), (0, -L % size), *((0, 0),) * (x.ndim - 2)), constant_values=filler)
        return jnp.moveaxis(x.reshape(B, -1, size, *x.shape[2:]), 1, 0)

    # What the head reads beside the states, as far as it is learned: a rule of our own must be told of it.
    head, weights = jax.closure_convert(head, hidden[:, :size])

    def losses(x: jax.Array, target: jax.Array, *weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = head(x, *weights)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
        counted = target != IGNORE
        return jnp.where(counted, nll, 0), jnp.where(counted, logits.argmax(-1), 0).astype(jnp.int32)

    def nothing(x: jax.Array, target: jax.Array, *_: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(target.shape, jnp.float32), jnp.zeros(target.shape, jnp.int32)

    # A `cond` that JAX differentiates keeps what either branch would need: the head's weights for each chunk, zeros in
    # their place where it is skipped. So the backward pass asks again, and computes the logits again.
    @jax.custom_vjp
    def chunk(has_targets: jax.Array, *of: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.cond(has_targets, losses, nothing, *of)

    def forward(has_targets: jax.Array, *of: jax.Array) -> tuple:
        return chunk(has_targets, *of), (has_targets, of)

    def backward(kept: tuple, cotangents: tuple[jax.Array, Any]) -> tuple:
        has_targets, (x, target, *weights) = kept

        def pulled(nll: jax.Array) -> tuple[jax.Array, ...]:
            return jax.vjp(lambda x, *weights: losses(x, target, *weights)[0], x, *weights)[1](nll)

        def zeros(nll: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(map(jnp.zeros_like, (x, *weights)))

        x_bar, *weights_bar = jax.lax.cond(has_targets, pulled, zeros, cotangents[0])
        return None, x_bar, None, *weights_bar

    chunk.defvjp(forward, backward)

    def back(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1).reshape(B, -1)[:, :L]
        return jnp.take_along_axis(x, jnp.argsort(order, axis=1), axis=1)

    # Asked of all chunks at once: within the loop, devices would have to agree anew on each.
    cut_targets = cut(targets, IGNORE)
    chunks = _anywhere(cut_targets != IGNORE), cut(hidden, 0), cut_targets
    nll, prediction = jax.lax.map(lambda of: chunk(*of, *weights), chunks)
    return {"nll": back(nll), "prediction": back(prediction)}


@jax.custom_batching.custom_vmap
def _anywhere(mask: jax.Array) -> jax.Array:
    """Whether anything is True in each chunk of `[chunks, B, size]`. Asked of many runs at once, it is one answer for
    all: a `cond` stays one, where `vmap` would compute both of its branches."""
    return mask.any((1, 2))


@_anywhere.def_vmap
def _of_all(size: int, is_mapped: Sequence[bool], mask: jax.Array) -> tuple[jax.Array, bool]:
    return _anywhere(jnp.concatenate(list(mask), axis=1)), False


def perplexity_sums(nll: jax.Array, counted: jax.Array) -> dict[str, jax.Array]:
    """What losses add up from: `nll`, and how many `tokens` were counted (`[B, L]` bool)."""
    return {"nll": (nll * counted).sum(), "tokens": counted.sum().astype(jnp.float32)}


def mean_loss(sums: Mapping[str, jax.Array]) -> jax.Array:
    """Nats a token; 0 where there was none."""
    return sums["nll"] / jnp.maximum(sums["tokens"], 1)

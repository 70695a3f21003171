"""Greedy decoding with a cache of keys and values."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtlora_jax.language.attention import causal_mask, positions_of


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "eos", "stops"))
def greedy(
    model: nn.Module,
    variables: Mapping[str, Any],
    tokens: jax.Array,
    attention_mask: jax.Array,
    task_id: jax.Array | None = None,
    *,
    max_new_tokens: int,
    eos: int,
    stops: tuple[int, ...] = (),
) -> jax.Array:
    """The likeliest continuation of every prompt, token by token; tasks may be mixed in a batch.

    Args:
      model: a decoder with `extend`, `head` and `empty_cache`; see `text.llama.Llama`.
      tokens: `[B, L]`, padded on the LEFT.
      attention_mask: `[B, L]`, 0 for padding.
      task_id: `[B]`, for adapters that know tasks.
      max_new_tokens: how many tokens are decoded, at most.
      eos: ends a text; whatever follows it is eos too.
      stops: further tokens that end a text.

    Returns:
      `[B, max_new_tokens]` ids. Decoding stops once every text has ended.
    """
    B, L = tokens.shape
    cache_length = L + max_new_tokens
    beyond = jnp.zeros((B, L, max_new_tokens), bool)
    mask = jnp.concatenate([causal_mask(attention_mask), beyond], axis=2)
    extend = partial(model.apply, variables, method="extend", task_id=task_id)
    states, cache = extend(tokens, positions_of(attention_mask), mask, model.empty_cache(B, cache_length))
    length = attention_mask.sum(1).astype(jnp.int32)

    def choose(states: jax.Array) -> jax.Array:
        return model.apply(variables, states[:, -1], method="head").argmax(-1).astype(jnp.int32)

    def unfinished(carry) -> jax.Array:
        return (carry[0] < max_new_tokens) & ~carry[3].all()

    def step(carry):
        i, out, token, ended, cache = carry
        filled = jnp.arange(cache_length).reshape(1, 1, -1) < L + i
        seen = jnp.concatenate([attention_mask > 0, jnp.ones((B, max_new_tokens), bool)], axis=1)[:, None] & filled
        states, cache = extend(token[:, None], (length + i - 1)[:, None], seen, cache)
        token = jnp.where(ended, eos, choose(states))
        return i + 1, out.at[:, i].set(token), token, ended | ends(token), cache

    def ends(token: jax.Array) -> jax.Array:
        return jnp.isin(token, jnp.array([eos, *stops], jnp.int32))

    token = choose(states)
    out = jnp.full((B, max_new_tokens), eos, jnp.int32).at[:, 0].set(token)
    return jax.lax.while_loop(unfinished, step, (jnp.int32(1), out, token, ends(token), cache))[1]


def pad_left(prompts: Sequence[Sequence[int]], pad: int, multiple: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as `(tokens, attention_mask)`, int32 `[B, L]`; L a multiple, so that few shapes are compiled."""
    length = -(-max(map(len, prompts)) // multiple) * multiple
    tokens, mask = np.full((len(prompts), length), pad, np.int32), np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return tokens, mask

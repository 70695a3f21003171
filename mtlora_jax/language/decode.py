"""Greedy decoding with a cache of keys and values."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.language.attention import causal_mask
from mtlora_jax.text.llama import Llama, positions_of

Cache = tuple[jax.Array, jax.Array, jax.Array]


def empty_cache(model: Llama, batch: int, places: int) -> Cache:
    """Keys and values `[layers, B, places, G, H]`, and how many places of each layer are filled."""
    s = model.spec
    shape = s.layers, batch, places, s.kv_heads, s.head_width
    empty = jnp.zeros(shape, model.dtype or jnp.float32)
    return empty, empty, jnp.zeros(s.layers, jnp.int32)


@partial(jax.jit, static_argnames=("model", "new", "eos"))
def greedy(
    model: Llama,
    variables: Mapping[str, Any],
    tokens: jax.Array,
    attention_mask: jax.Array,
    task_id: jax.Array | None = None,
    *,
    new: int,
    eos: int,
) -> jax.Array:
    """The likeliest continuation of every prompt, token by token; tasks may be mixed in a batch.

    Args:
      tokens: `[B, L]`, padded on the LEFT.
      attention_mask: `[B, L]`, 0 for padding.
      task_id: `[B]`, for adapters that know tasks.
      new: tokens at most.
      eos: ends a text; what would follow is eos too.

    Returns:
      `[B, new]` ids. Decoding stops once every text has ended.
    """
    B, L = tokens.shape
    places = L + new
    beyond = jnp.zeros((B, L, new), bool)
    mask = jnp.concatenate([causal_mask(attention_mask), beyond], axis=2)
    extend = partial(model.apply, variables, method="extend", task_id=task_id)
    states, cache = extend(tokens, positions_of(attention_mask), mask, empty_cache(model, B, places))
    length = attention_mask.sum(1).astype(jnp.int32)

    def choose(states: jax.Array) -> jax.Array:
        return model.apply(variables, states[:, -1], method="head").argmax(-1).astype(jnp.int32)

    def unfinished(carry) -> jax.Array:
        return (carry[0] < new) & ~carry[3].all()

    def step(carry):
        i, out, token, ended, cache = carry
        place = jnp.arange(places).reshape(1, 1, -1)
        seen = jnp.concatenate([attention_mask > 0, jnp.ones((B, new), bool)], axis=1)[:, None] & (place < L + i)
        states, cache = extend(token[:, None], (length + i - 1)[:, None], seen, cache)
        token = jnp.where(ended, eos, choose(states))
        return i + 1, out.at[:, i].set(token), token, ended | (token == eos), cache

    token = choose(states)
    out = jnp.full((B, new), eos, jnp.int32).at[:, 0].set(token)
    return jax.lax.while_loop(unfinished, step, (jnp.int32(1), out, token, token == eos, cache))[1]


def pad_left(prompts: Sequence[Sequence[int]], pad: int, multiple: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as `(tokens, attention_mask)`, int32 `[B, L]`; L a multiple, so that few shapes are compiled."""
    length = -(-max(map(len, prompts)) // multiple) * multiple
    tokens, mask = np.full((len(prompts), length), pad, np.int32), np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return tokens, mask

"""What a BART writes: greedily, or by beam search, with a cache of keys and values.

Texts begin with the decoder's start token, which counts towards every length. As in transformers, an n-gram of ids that
would come a second time may be blocked, after the softmax and without renormalising.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlora_jax.image_text.bart import Bart, BartSpec

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """How texts are looked for.

    Attributes:
      beams: hypotheses that are followed at a time; 1 decodes greedily, and nothing is forced then.
      max_length: ids of a text, at most, its start and end included.
      no_repeat: length of n-grams that no text holds twice; 0 blocks none.
      length_penalty: a finished text's score is its log-likelihood over its length to this power.
      early_stopping: end once there are as many finished texts as beams; else once none that is followed can score
        better.
      force_bos, force_eos: with beams, the first token after the start is the one that begins texts, and the last that
        fits the one that ends them.
    """

    beams: int = 1
    max_length: int = 20
    no_repeat: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True
    force_bos: bool = False
    force_eos: bool = True

    def problems(self) -> str | None:
        """What is wrong with it, if anything."""
        for name, least in (("beams", 1), ("max_length", 2), ("no_repeat", 0)):
            if getattr(self, name) < least:
                return f"{name} must be at least {least}, not {getattr(self, name)}"
        return None


@partial(jax.jit, static_argnames=("model", "search"))
def generate(
    model: Bart, variables: Variables, states: jax.Array, mask: jax.Array, task_id: jax.Array | None, search: Search
) -> jax.Array:
    """The text for every row, `[B, max_length]` ids from the start token on, filled up with padding.

    Args:
      states, mask: `[B, M, D]` and `[B, M]`, as `Bart.encode` gives them.
      task_id: `[B]`, or None; tasks may be mixed.
    """
    if search.beams == 1:
        return greedy(model, variables, states, mask, task_id, search)
    return beams(model, variables, states, mask, task_id, search)[0][:, 0]


def greedy(model: Bart, variables: Variables, states, mask, task_id, search: Search) -> jax.Array:
    """The likeliest token after the likeliest token; see `generate`."""
    s, B, length = model.spec, len(states), search.max_length
    extend, logits_of = _calls(model, variables, mask, task_id)

    def unfinished(carry) -> jax.Array:
        return (carry[0] < length) & ~carry[2].all()

    def step(carry, read=None):
        i, ids, ended, cache = carry
        hidden, cache = extend(jax.lax.dynamic_slice_in_dim(ids, i - 1, 1, axis=1), i - 1, cache, states=read)
        scores = jnp.where(repeats(ids, i, search.no_repeat, s.vocab_size), -jnp.inf, logits_of(hidden))
        token = jnp.where(ended, s.pad, scores.argmax(-1).astype(jnp.int32))
        return i + 1, ids.at[:, i].set(token), ended | (token == s.eos), cache

    ids = jnp.full((B, length), s.pad, jnp.int32).at[:, 0].set(s.start)
    cache = model.empty_cache(B, length, states.shape[1])
    return jax.lax.while_loop(unfinished, step, step((1, ids, jnp.zeros(B, bool), cache), states))[1]


class Beams(NamedTuple):
    """Where a search stands: K texts that are followed and the K best that are finished, of every row.

    Attributes:
      step: ids that the followed texts have.
      ids, scores: `[B, K, max_length]` and their log-likelihoods `[B, K]`.
      found, found_scores: finished texts and their scores, the best first; minus infinity where there is none.
      done: `[B]`, rows that take no more.
      cache: the decoder's, of `B * K` rows.
    """

    step: jax.Array
    ids: jax.Array
    scores: jax.Array
    found: jax.Array
    found_scores: jax.Array
    done: jax.Array
    cache: Any


@partial(jax.jit, static_argnames=("model", "search"))
def beams(model: Bart, variables: Variables, states, mask, task_id, search: Search) -> tuple[jax.Array, jax.Array]:
    """The best texts of every row, the best first: ids `[B, K, max_length]` and scores `[B, K]`; see `generate`."""
    s, (B, M, _), K, length = model.spec, states.shape, search.beams, search.max_length
    states, mask = (jnp.repeat(x, K, axis=0) for x in (states, mask))
    extend, logits_of = _calls(model, variables, mask, None if task_id is None else jnp.repeat(task_id, K, axis=0))

    def step(now: Beams, read=None) -> Beams:
        i, flat = now.step, now.ids.reshape(B * K, length)
        hidden, cache = extend(jax.lax.dynamic_slice_in_dim(flat, i - 1, 1, axis=1), i - 1, now.cache, states=read)
        scores = jax.nn.log_softmax(logits_of(hidden))
        scores = jnp.where(repeats(flat, i, search.no_repeat, s.vocab_size), -jnp.inf, scores)
        scores = forced(scores, i, s, search).reshape(B, K, -1) + now.scores[:, :, None]
        # Twice as many as beams: at most K of them end, one a beam, so that K go on.
        best, at = jax.lax.top_k(scores.reshape(B, -1), 2 * K)
        beam, token = at // s.vocab_size, (at % s.vocab_size).astype(jnp.int32)
        ids = jnp.take_along_axis(now.ids, beam[:, :, None], axis=1).at[:, :, i].set(token)
        ends = token == s.eos
        finished = ends & (jnp.arange(2 * K) < K)[None] & ~now.done[:, None]
        found, found_scores = _merged(now, ids, jnp.where(finished, best / i**search.length_penalty, -jnp.inf))
        done = now.done | _is_done(search, found_scores, best[:, 0], i)
        order = jnp.argsort(ends, axis=1, stable=True)[:, :K]
        beam, scores = (jnp.take_along_axis(x, order, axis=1) for x in (beam, best))
        ids = jnp.take_along_axis(ids, order[:, :, None], axis=1)
        rows = (jnp.arange(B)[:, None] * K + beam).reshape(-1)
        # What was read of the encoder is the same for all texts of a row.
        cache = (*(x[:, rows] for x in cache[:2]), *cache[2:])
        return Beams(i + 1, ids, scores, found, found_scores, done, cache)

    ids = jnp.full((B, K, length), s.pad, jnp.int32).at[:, :, 0].set(s.start)
    nothing = jnp.full((B, K), -jnp.inf)
    # One beam at first: the others would follow the same text.
    first = jnp.broadcast_to(jnp.where(jnp.arange(K) == 0, 0.0, -1e9)[None], (B, K))
    start = Beams(jnp.int32(1), ids, first, ids, nothing, jnp.zeros(B, bool), model.empty_cache(B * K, length, M))
    end = jax.lax.while_loop(lambda now: (now.step < length) & ~now.done.all(), step, step(start, states))
    left = jnp.where(end.done[:, None], -jnp.inf, end.scores / (end.step - 1) ** search.length_penalty)
    return _merged(end, end.ids, left)


def _is_done(search: Search, found: jax.Array, best: jax.Array, length: jax.Array) -> jax.Array:
    """Whether a row has all its texts: as many as beams, and none that is followed can become better."""
    full = jnp.isfinite(found).all(1)
    return full if search.early_stopping else full & (found.min(1) >= best / length**search.length_penalty)


def _merged(now: Beams, ids: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best finished texts, with further ones `[B, N, max_length]` of scores `[B, N]` among them."""
    scores, at = jax.lax.top_k(jnp.concatenate([now.found_scores, scores], axis=1), now.scores.shape[1])
    return jnp.take_along_axis(jnp.concatenate([now.found, ids], axis=1), at[:, :, None], axis=1), scores


def _calls(model: Bart, variables: Variables, mask, task_id) -> tuple[Callable, Callable]:
    """One more token, and the logits `[B, V]` of its state."""
    extend = partial(model.apply, variables, method="extend", mask=mask, task_id=task_id)
    return extend, lambda hidden: model.apply(variables, hidden[:, -1], method="head")


def repeats(ids: jax.Array, length: jax.Array, n: int, vocab_size: int) -> jax.Array:
    """`[B, V]` bool, tokens that would make an n-gram a second time.

    Args:
      ids: `[B, L]`, of which the first `length` are written.
    """
    B, L = ids.shape
    blocked = jnp.zeros((B, vocab_size), bool)
    if not 0 < n <= L:
        return blocked
    starts = jnp.arange(L - n + 1)
    last = jax.lax.dynamic_slice_in_dim(ids, jnp.maximum(length - n + 1, 0), n - 1, axis=1) if n > 1 else ids[:, :0]
    same = jnp.ones((B, len(starts)), bool)
    for k in range(n - 1):
        same &= ids[:, k : k + len(starts)] == last[:, k : k + 1]
    same &= ((starts + n <= length) & (length >= n - 1))[None]
    # Tokens that are not blocked are written to a row beyond the vocabulary, which is dropped.
    token = jnp.where(same, ids[:, n - 1 :], vocab_size)
    return blocked.at[jnp.arange(B)[:, None], token].set(True, mode="drop")


def forced(scores: jax.Array, length: jax.Array, spec: BartSpec, search: Search) -> jax.Array:
    """Log-likelihoods `[B, V]` of the next token, where one is forced: its 0, and minus infinity for all others."""

    def only(token: int) -> jax.Array:
        return jnp.where(jnp.arange(scores.shape[1]) == token, 0.0, -jnp.inf)[None]

    if search.force_bos:
        scores = jnp.where(length == 1, only(spec.bos), scores)
    if search.force_eos:
        scores = jnp.where(length == search.max_length - 1, only(spec.eos), scores)
    return scores

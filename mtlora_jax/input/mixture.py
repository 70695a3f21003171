"""Several sources as one, in an order that is a pure function of (seed, step): by shares, or in turn.

Positions of the run are dealt to the sources in blocks; within a block every source has its quota, shuffled, or the
sources take turns. Each source then goes through its own examples in epochs of its own, none left out, none repeated
before all have been seen, whatever the shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mtlora_jax.errors import UserError

BLOCK = 1024
"""Positions that are dealt out at a time: shares are kept to a thousandth."""
TABLE, ORDER = 2, 3
"""What a random stream is for; the loader's own are 0 and 1 (see `engine.loader`)."""


@dataclass(frozen=True)
class Mixture:
    """Sources of examples of one form.

    `[i]` goes through them one after the other, which is how they are evaluated; `batch_indices` is the order in
    which the loader trains on them.

    Attributes:
      sources: of whole examples, every task there or marked missing (see `sized.Sized`).
      shares: of the examples trained on, by source; need not add up to 1. Empty: in turn.
    """

    sources: tuple[Any, ...]
    shares: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict:
        k, own = self._place(index)
        return {**self.sources[k][own], "id": np.int64(index)}

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        """One example, transformed at random as its source does."""
        k, own = self._place(index)
        source = self.sources[k]
        example = source.draw(own, rng) if hasattr(source, "draw") else source[own]
        return {**example, "id": np.int64(index)}

    def batch_indices(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Which examples the global batch of update `step` = 0, 1, ... holds: int64 `[B]`."""
        quotas = deal(self.shares, BLOCK) if self.shares else (1,) * len(self.sources)
        starts = np.cumsum([0, *map(len, self.sources)])
        indices = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            block, slot = divmod(position, sum(quotas))
            chosen, rank = _table(seed, block, quotas, bool(self.shares))
            k = int(chosen[slot])
            epoch, offset = divmod(block * quotas[k] + int(rank[slot]), len(self.sources[k]))
            indices.append(starts[k] + _permutation(seed, epoch, k, len(self.sources[k]), ORDER)[offset])
        return np.array(indices, np.int64)

    def _place(self, index: int) -> tuple[int, int]:
        """`(source, index in it)` of an index over all of them."""
        for k, source in enumerate(self.sources):
            if index < len(source):
                return k, index
            index -= len(source)
        raise IndexError(f"index {index} past the end of the last source")


def shares_of(lengths: Sequence[int], weights: Sequence[float] | None, temperature: float) -> tuple[float, ...]:
    """The share of each source: by weight, or by length to the power of 1 / temperature (1 goes by size, a large one
    evens out), adding up to 1."""
    raw = np.array(weights if weights is not None else np.asarray(lengths, np.float64) ** (1 / temperature), np.float64)
    if not np.all(raw > 0):
        raise UserError("every source of a mixture needs a weight above 0; leave out those that are not wanted")
    return tuple((raw / raw.sum()).tolist())


@lru_cache
def deal(shares: tuple[float, ...], total: int) -> tuple[int, ...]:
    """Whole quotas that add up to `total`, nearest to the shares by largest remainders, none below 1."""
    exact = np.array(shares) / sum(shares) * total
    quotas = np.maximum(np.floor(exact).astype(int), 1)
    while quotas.sum() > total:
        quotas[np.argmax(quotas)] -= 1
    most = np.argsort(-(exact - quotas), kind="stable")[: total - quotas.sum()]
    quotas[most] += 1
    return tuple(quotas.tolist())


@lru_cache(maxsize=4)
def _table(seed: int, block: int, quotas: tuple[int, ...], shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
    """`(source, how many of that source came before in the block)` of every position in a block."""
    chosen = np.repeat(np.arange(len(quotas)), quotas)
    if shuffled:
        chosen = chosen[_permutation(seed, block, 0, len(chosen), TABLE)]
    rank = np.zeros(len(chosen), np.int64)
    for k, quota in enumerate(quotas):
        rank[chosen == k] = np.arange(quota)
    return chosen, rank


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, stream: int, length: int, purpose: int) -> np.ndarray:
    # Sorted raw bits, since numpy promises their sequence for good, not shuffle's.
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, stream, purpose]).random_raw(length)
    return np.argsort(bits, kind="stable")

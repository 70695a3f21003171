"""Several sets of examples as one, in an order that is a pure function of (seed, step): by shares, or in turn.

Positions of the run are dealt to the sets in blocks; within a block every set has its quota, shuffled, or the sets take
turns. Each set then goes through its own examples in epochs of its own, none left out, none repeated before all have
been seen, whatever the shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.input.protocols import Examples

BLOCK = 1024
"""Positions that are dealt out at a time: shares are kept to a thousandth."""
TABLE, ORDER = 2, 3
"""What a random stream is for; the loader's own are 0 and 1 (see `input.loader`)."""


@dataclass(frozen=True)
class MixtureOrder:
    """`(seed, step, batch size) -> ` which examples of several sets a global batch holds: int64 `[B]`, an index over
    all sets, one after the other.

    Attributes:
      lengths: examples of every set.
      shares: every set's part of the examples trained on; need not add up to 1. Empty: in turn.
    """

    lengths: tuple[int, ...]
    shares: tuple[float, ...] = ()

    def __call__(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        quotas = deal(self.shares, BLOCK) if self.shares else (1,) * len(self.lengths)
        starts = np.cumsum([0, *self.lengths])
        indices = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            block, slot = divmod(position, sum(quotas))
            chosen, rank = _table(seed, block, quotas, bool(self.shares))
            k = int(chosen[slot])
            epoch, offset = divmod(block * quotas[k] + int(rank[slot]), self.lengths[k])
            indices.append(starts[k] + _permutation(seed, epoch, k, self.lengths[k], ORDER)[offset])
        return np.array(indices, np.int64)


@dataclass(frozen=True)
class Mixture(Examples):
    """Several sets of examples of one form. `[i]` goes through them one after the other, which is how they are
    evaluated; `order` is how the loader trains on them.

    Attributes:
      sets: their examples are whole, every task there or marked missing.
      shares: see `MixtureOrder`.
    """

    sets: tuple[Examples, ...]
    shares: tuple[float, ...] = ()

    @property
    def order(self) -> MixtureOrder:
        return MixtureOrder(tuple(map(len, self.sets)), self.shares)

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def __getitem__(self, index: int) -> dict:
        examples, own = self._locate(index)
        return {**examples[own], "id": np.int64(index)}

    def augmented(self, index: int, rng: np.random.Generator) -> dict:
        examples, own = self._locate(index)
        return {**examples.augmented(own, rng), "id": np.int64(index)}

    def source(self, index: int) -> str:
        examples, own = self._locate(index)
        return examples.source(own)

    def _locate(self, index: int) -> tuple[Examples, int]:
        """The set that an index over all of them falls in, and the index there."""
        for examples in self.sets:
            if index < len(examples):
                return examples, index
            index -= len(examples)
        raise IndexError(f"index {index} past the end of the last set")


def shares_of(lengths: Sequence[int], weights: Sequence[float] | None, temperature: float) -> tuple[float, ...]:
    """The share of each set: by weight, or by length to the power of 1 / temperature (1 goes by size, a large one
    evens out), adding up to 1."""
    raw = np.array(weights if weights is not None else np.asarray(lengths, np.float64) ** (1 / temperature), np.float64)
    if not np.all(raw > 0):
        raise UserError("every set of a mixture needs a weight above 0; leave out those that are not wanted")
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
    """`(set, how many of that set came before in the block)` of every position in a block."""
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

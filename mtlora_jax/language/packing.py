"""Batches of a corpus: one example a row, padded to a bucket, or many to a row, packed.

A batch holds

    tokens [B, L] int32          padded with the tokenizer's pad id
    targets [B, L] int32         the token to predict next, IGNORE where none counts in the loss
    segment_ids [B, L] int32     1, 2, ... for the examples of a row, 0 for padding; a token sees its own segment's
    task_id [B] or [B, L] int32  whose adapters to use; per token in packed rows
    valid {task: [B] bool}       whether a row holds an example of the task
    id [B] or [B, S] int64       examples, for messages; -1 for none

The order of examples is a function of (seed, step), packing too: rows are planned a window of positions at a time,
from lengths alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from mtlora_jax.input.loader import Order, padded_indices, shuffled, without_copies
from mtlora_jax.input.mixture import MixtureOrder, shares_of
from mtlora_jax.input.protocols import Batches, HeldOut
from mtlora_jax.language.corpus import Corpus, Piece

IGNORE = -100
"""The target of a position that does not count in the loss."""
WINDOW = 2048
"""Examples that are packed together. More waste less of a row's end and plan longer."""


def order_of(corpus: Corpus, temperature: float | None) -> Order:
    """All examples in a new permutation each epoch, or tasks dealt by `size ** (1 / temperature)`."""
    if temperature is None:
        return partial(shuffled, length=len(corpus))
    present = tuple(n for n in corpus.sizes() if n)
    return MixtureOrder(present, shares_of(present, None, temperature))


@dataclass(frozen=True, eq=False)
class Padded(Batches):
    """A row for each example, to train on.

    Attributes:
      corpus: the examples.
      buckets: lengths that batches are padded to, rising; the longest example fits the last.
      pad: token id.
      order: which examples a batch holds.
      batch_size: B of the global batch.
    """

    corpus: Corpus
    buckets: tuple[int, ...]
    pad: int
    order: Order
    batch_size: int

    @property
    def fillers(self) -> dict[str, float]:
        return {"tokens": self.pad, "targets": IGNORE}

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        indices = self.order(seed, step, self.batch_size)
        return collate(self.corpus, self.buckets, self.pad, indices, rows)


@dataclass(frozen=True, eq=False)
class PaddedInOrder(HeldOut):
    """A whole corpus once, in its own order, a row for each example; attributes as in `Padded`.

    The last batch is filled up with copies of the last example, which are valid for nothing.
    """

    corpus: Corpus
    buckets: tuple[int, ...]
    pad: int
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.corpus) // self.batch_size)

    def __getitem__(self, i: int) -> dict:
        indices, there = padded_indices(i, self.batch_size, len(self.corpus), range(self.batch_size))
        return without_copies(collate(self.corpus, self.buckets, self.pad, indices, range(self.batch_size)), there)


def collate(corpus: Corpus, buckets: Sequence[int], pad: int, indices: np.ndarray, rows: Sequence[int]) -> dict:
    """Some rows of the batch of these examples. All examples together choose the bucket, so that processes agree."""
    longest = int(corpus.lengths[indices].max())
    length = next(bucket for bucket in buckets if bucket >= longest)
    wanted = indices[list(rows)]
    batch = lay_out(corpus.tasks, [[corpus[int(i)]] for i in wanted], length, pad)
    return {**batch, "task_id": corpus.task[wanted], "id": wanted.astype(np.int64)}


@dataclass(frozen=True, eq=False)
class Packed(Batches):
    """Rows of many examples each, to train on.

    Attributes:
      corpus, pad, order, batch_size: see `Padded`.
      length: L of every row; no example is longer.
    """

    corpus: Corpus
    length: int
    pad: int
    order: Order
    batch_size: int

    @property
    def fillers(self) -> dict[str, float]:
        return {"id": -1}

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        wanted = [self.row(seed, step * self.batch_size + row) for row in rows]
        pieces = [[self.corpus[i] for i in row] for row in wanted]
        return lay_out(self.corpus.tasks, pieces, self.length, self.pad)

    def row(self, seed: int, number: int) -> list[int]:
        """The examples of the run's row of that number."""
        window = 0
        while number >= len(rows := _plan(self, seed, window)):
            number, window = number - len(rows), window + 1
        return rows[number]

    def padding(self, seed: int) -> float:
        """The share of the first window's positions that hold no token."""
        rows = _plan(self, seed, 0)
        return 1 - sum(int(self.corpus.lengths[i]) for row in rows for i in row) / (len(rows) * self.length)


@lru_cache(maxsize=4096)
def _plan(packed: Packed, seed: int, window: int) -> list[list[int]]:
    # A smaller set is packed an epoch at a time: each of its examples comes once before any comes again.
    indices = packed.order(seed, window, min(WINDOW, len(packed.corpus)))
    return [[int(indices[i]) for i in row] for row in first_fit(packed.corpus.lengths[indices], packed.length)]


def first_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Packs items, the longest first, each into the first row with room for it; rows in order of their first item.

    Raises:
      ValueError: an item is longer than a row.
    """
    rows: list[list[int]] = []
    left = np.zeros(0, np.int64)
    for item in np.argsort(-np.asarray(lengths), kind="stable"):
        if lengths[item] > room:
            raise ValueError(f"an example of {lengths[item]} tokens does not fit a row of {room}")
        fits = np.flatnonzero(left >= lengths[item])
        if len(fits):
            row = fits[0]
        else:
            row, left = len(rows), np.append(left, room)
            rows.append([])
        rows[row].append(int(item))
        left[row] -= lengths[item]
    return sorted((sorted(row) for row in rows), key=lambda row: row[0])


def lay_out(tasks: Sequence[str], rows: Sequence[Sequence[Piece]], length: int, pad: int) -> dict:
    """The arrays of a batch whose rows hold these examples one after the other; `task_id` is per token."""
    shape = len(rows), length
    tokens, targets = np.full(shape, pad, np.int32), np.full(shape, IGNORE, np.int32)
    segment_ids, task_id = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    ids = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for b, row in enumerate(rows):
        begin = 0
        for segment, piece in enumerate(row):
            there = slice(begin, begin + len(piece.tokens))
            tokens[b, there] = piece.tokens
            # A position predicts the token after it, never one of the next example.
            targets[b, there.start : there.stop - 1] = np.where(piece.loss_mask, piece.tokens, IGNORE)[1:]
            segment_ids[b, there] = segment + 1
            task_id[b, there] = piece.task
            ids[b, segment] = piece.id
            begin = there.stop
    valid = {name: ((task_id == t) & (segment_ids > 0)).any(1) for t, name in enumerate(tasks)}
    return {
        "tokens": tokens,
        "targets": targets,
        "segment_ids": segment_ids,
        "task_id": task_id,
        "valid": valid,
        "id": ids,
    }

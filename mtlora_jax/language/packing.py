"""Batches of a corpus: one example a row, padded to a bucket, or many to a row, packed.

A batch holds

    tokens [B, L] int32          padded with the tokenizer's pad id
    targets [B, L] int32         the token to predict next, IGNORE where none is learned
    attention_mask [B, L] int32  0 for padding; tokens see tokens of their own number (1, 2, ... for packed examples)
    task_id [B] or [B, L] int32  whose adapters to use; per token in packed rows
    valid {task: [B] bool}       whether a row holds an example of the task
    id [B] or [B, S] int64       examples, for messages; -1 for none

The order of examples is a function of (seed, step), packing too: rows are planned a window of positions at a time,
from lengths alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from mtlora_jax.input.loader import batch_indices
from mtlora_jax.input.mixture import Mixture, shares_of
from mtlora_jax.language.corpus import Corpus

IGNORE = -100
"""The target of a position at which nothing is learned."""
WINDOW = 2048
"""Examples that are packed together. More waste less of a row's end and plan longer."""

Order = Callable[[int, int, int], np.ndarray]
"""`(seed, step, batch size) -> ` which examples, as in `engine.loader.batch_indices`."""


def order_of(corpus: Corpus, temperature: float | None) -> Order:
    """All examples in a new permutation each epoch, or tasks dealt by `size ** (1 / temperature)`."""
    if temperature is None:
        return partial(batch_indices, length=len(corpus))
    sizes = corpus.sizes()
    present = [n for n in sizes if n]
    return Mixture(tuple(range(n) for n in present), shares_of(present, None, temperature)).batch_indices


@dataclass(frozen=True, eq=False)
class Padded:
    """A row for each example.

    Attributes:
      corpus: the examples.
      buckets: lengths that batches are padded to, rising; the longest example fits the last.
      pad: token id.
      order: of training examples.
    """

    corpus: Corpus
    buckets: tuple[int, ...]
    pad: int
    order: Order

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict:
        batch = self.collate(np.array([index]), range(1))
        return {k: {t: v[0] for t, v in x.items()} if isinstance(x, dict) else x[0] for k, x in batch.items()}

    def batch(self, seed: int, step: int, batch_size: int, rows: range) -> dict:
        """Rows of the global batch of update `step`."""
        return self.collate(self.order(seed, step, batch_size), rows)

    def collate(self, indices: np.ndarray, rows: range) -> dict:
        """Rows of the batch of these examples. All examples together choose the bucket, so that processes agree."""
        longest = int(self.corpus.lengths[indices].max())
        length = next(bucket for bucket in self.buckets if bucket >= longest)
        wanted = indices[rows.start : rows.stop]
        batch = lay_out(self.corpus, [[int(i)] for i in wanted], length, self.pad)
        return {**batch, "task_id": self.corpus.task[wanted], "id": wanted.astype(np.int64)}


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows of many examples each, for training.

    Attributes:
      corpus, pad, order: see `Padded`.
      length: L of every row; no example is longer.
    """

    corpus: Corpus
    length: int
    pad: int
    order: Order

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, seed: int, step: int, batch_size: int, rows: range) -> dict:
        """Rows of the global batch of update `step`."""
        wanted = [self._row(seed, step * batch_size + row) for row in rows]
        return lay_out(self.corpus, wanted, self.length, self.pad)

    def _row(self, seed: int, row: int) -> list[int]:
        window = 0
        while row >= len(rows := self._plan(seed, window)):
            row, window = row - len(rows), window + 1
        return rows[row]

    def _plan(self, seed: int, window: int) -> list[list[int]]:
        return _plan(self, seed, window)


@lru_cache(maxsize=4096)
def _plan(packed: Packed, seed: int, window: int) -> list[list[int]]:
    indices = packed.order(seed, window, WINDOW)
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


def lay_out(corpus: Corpus, rows: Sequence[Sequence[int]], length: int, pad: int) -> dict:
    """The arrays of a batch whose rows hold these examples one after the other."""
    shape = len(rows), length
    tokens, targets = np.full(shape, pad, np.int32), np.full(shape, IGNORE, np.int32)
    segments, task_id = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    ids = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for b, row in enumerate(rows):
        begin = 0
        for segment, example in enumerate(row):
            span = corpus.span(example)
            there = slice(begin, begin + span.stop - span.start)
            tokens[b, there] = corpus.tokens[span]
            # A position predicts the token after it, never one of the next example.
            learned = np.where(corpus.learned[span], corpus.tokens[span], IGNORE)
            targets[b, there.start : there.stop - 1] = learned[1:]
            segments[b, there] = segment + 1
            task_id[b, there] = corpus.task[example]
            ids[b, segment] = example
            begin = there.stop
    valid = {name: ((task_id == t) & (segments > 0)).any(1) for t, name in enumerate(corpus.tasks)}
    return {
        "tokens": tokens,
        "targets": targets,
        "attention_mask": segments,
        "task_id": task_id,
        "valid": valid,
        "id": ids,
    }

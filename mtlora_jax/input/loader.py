"""Batches as a pure function of (seed, step).

Whatever the number of processes, hosts and workers, step n sees the same examples with the same random
augmentations, so a resumed run needs no state but its step. The examples of an epoch are a permutation of the
set; batches run on over the seam between epochs, none is short.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count

import numpy as np

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.input.mixture import Mixture
from mtlora_jax.input.prefetch import Prefetcher
from mtlora_jax.input.protocols import Batches, Examples, HeldOut

ORDER, EXAMPLE = 0, 1
"""What a random stream is for: Philox counters begin there, so that streams of one key never meet."""

Order = Callable[[int, int, int], np.ndarray]
"""`(seed, step, batch size) -> ` which examples the global batch of update `step` = 0, 1, ... holds: int64 `[B]`."""


def shuffled(seed: int, step: int, batch_size: int, length: int) -> np.ndarray:
    """The order of a set of `length` examples, a new permutation for every epoch: int64 `[B]`, at the cost of `B`."""
    position = step * batch_size + np.arange(batch_size)
    epochs, offsets = np.divmod(position, length)
    return np.array([_permutation(seed, int(e), length)[o] for e, o in zip(epochs, offsets, strict=True)], np.int64)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The epoch's permutation. Sorted raw bits, since numpy promises their sequence for good, not shuffle's."""
    bits = np.random.Philox(key=[seed, epoch], counter=_counter(ORDER)).random_raw(length)
    return np.argsort(bits, kind="stable")


def example_rng(seed: int, step: int, row: int) -> np.random.Generator:
    """The generator of one row of one global batch, whichever process reads it."""
    return np.random.Generator(np.random.Philox(key=[seed, step], counter=_counter(EXAMPLE, row)))


def _counter(purpose: int, row: int = 0) -> list[int]:
    return [0, 0, row, purpose]


def stack(examples: Sequence[Mapping]) -> dict:
    """Examples as a batch: every leaf gets a leading `B` axis."""
    first = examples[0]
    return {
        name: stack([e[name] for e in examples]) if isinstance(leaf, Mapping) else np.stack([e[name] for e in examples])
        for name, leaf in first.items()
    }


@dataclass(frozen=True)
class ExampleBatches(Batches):
    """Batches of augmented examples.

    Attributes:
      examples: what to choose from.
      batch_size: B of the global batch.
      order: which examples a batch holds.
    """

    examples: Examples
    batch_size: int
    order: Order

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        indices = self.order(seed, step, self.batch_size)
        return stack([self.examples.augmented(int(indices[row]), example_rng(seed, step, row)) for row in rows])

    def source(self, id: int) -> str:
        return self.examples.source(id)


def batches_of(examples: Examples, batch_size: int) -> Batches:
    """Training batches of examples: shuffled anew every epoch, or in a mixture's own order."""
    order = examples.order if isinstance(examples, Mixture) else partial(shuffled, length=len(examples))
    return ExampleBatches(examples, batch_size, order)


@dataclass(frozen=True)
class InOrder(HeldOut):
    """A whole set once, in its own order: `[i]` is the i-th batch.

    The last one is filled up with copies of its last example, which are valid for nothing.
    """

    examples: Examples
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def __getitem__(self, i: int) -> dict:
        return self.part(i, range(self.batch_size))

    def part(self, i: int, rows: Sequence[int]) -> dict:
        indices, there = padded_indices(i, self.batch_size, len(self.examples), rows)
        examples = {index: self.examples[index] for index in dict.fromkeys(indices.tolist())}
        return without_copies(stack([examples[index] for index in indices.tolist()]), there)


def padded_indices(i: int, batch_size: int, length: int, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The examples of some rows of the i-th batch of a set in order, int64 `[rows]`, the last one repeated where they
    run out; and which rows are no such copy."""
    position = i * batch_size + np.array(rows)
    return np.minimum(position, length - 1), position < length


def without_copies(batch: dict, there: np.ndarray) -> dict:
    """The batch whose other rows are valid for nothing."""
    return {**batch, "valid": {task: of & there for task, of in batch["valid"].items()}}


class Loader:
    """A run's training batches, prepared ahead by its config's workers.

    Args:
      batches: training batches of the config's global batch size.
      config: gives seed, batch size and workers.
      first: updates already done.
      rows: of each global batch, those that this process reads; None for all.

    Raises:
      UserError: the batches cannot be pickled.
    """

    def __init__(
        self,
        batches: Batches,
        config: Config,
        first: int = 0,
        rows: Sequence[int] | None = None,
    ):
        rows = range(config.train.batch_size) if rows is None else rows
        self._first = first
        make = partial(_rows_of, batches, config.seed, rows)
        self._prefetcher = Prefetcher(make, config.train.workers, config.train.worker_kind)

    def until(self, last: int | None = None) -> Iterator[tuple[int, dict]]:
        """`(step, batch)` with the update's number from `first + 1` to `last`; without `last` it never ends.

        Raises:
          UserError: the batch of a step cannot be read; the message names step and file.
        """
        updates = count(self._first) if last is None else range(self._first, last)
        step = self._first
        try:
            for step, batch in enumerate(self._prefetcher.run(updates), self._first + 1):
                yield step, batch
        except UserError as error:
            raise UserError(f"step {step + 1}: {error}") from None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self._prefetcher.close()


def _rows_of(batches: Batches, seed: int, rows: Sequence[int], step: int) -> dict:
    return batches.batch(seed, step, rows)


def prefetched(
    held_out: HeldOut, workers: int = 0, kind: str = "process", rows: Sequence[int] | None = None
) -> Iterator[dict]:
    """The batches of a set in order, prepared ahead by workers; some rows of each, where they are said."""
    make = held_out.__getitem__ if rows is None else partial(held_out.part, rows=rows)
    with Prefetcher(make, min(workers, len(held_out)), kind) as prefetcher:
        yield from prefetcher.run(range(len(held_out)))

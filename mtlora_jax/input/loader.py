"""Batches as a pure function of (seed, step).

Whatever the number of processes, hosts and workers, step n sees the same examples with the same random
transformations, so a resumed run needs no state but its step. The examples of an epoch are a permutation of the
source; batches run on over the seam between epochs, none is short.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any, Protocol

import numpy as np

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.input.prefetch import Prefetcher

ORDER, EXAMPLE = 0, 1
"""What a random stream is for: Philox counters begin there, so that streams of one key never meet."""


class Source(Protocol):
    """Random access to examples, nested dicts of numpy arrays; pickled when it goes to worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


@dataclass(frozen=True)
class Augmented:
    """A source whose training examples are transformed at random, each by a generator of its own.

    Args:
      source: of plain examples, which `[]` gives untouched.
      transform: `(example, np.random.Generator) -> example`.
    """

    source: Source
    transform: Callable[[dict, np.random.Generator], dict]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return self.source[index]

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        """One transformed example."""
        return self.transform(self.source[index], rng)


def batch_indices(seed: int, step: int, batch_size: int, length: int) -> np.ndarray:
    """Which examples the global batch of update `step` = 0, 1, ... holds: int64 `[B]`, at the cost of `B`."""
    position = step * batch_size + np.arange(batch_size)
    epochs, offsets = np.divmod(position, length)
    return np.array([_order(seed, int(e), length)[o] for e, o in zip(epochs, offsets, strict=True)], np.int64)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The epoch's permutation. Sorted raw bits, since numpy promises their sequence for good, not shuffle's."""
    bits = np.random.Philox(key=[seed, epoch], counter=_counter(ORDER)).random_raw(length)
    return np.argsort(bits, kind="stable")


def example_rng(seed: int, step: int, row: int) -> np.random.Generator:
    """The generator of one row of one global batch, whoever reads it."""
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
class TrainBatches:
    """`batches(step)`: this process's rows of the global batch of update `step` = 0, 1, ..."""

    source: Any
    seed: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def __call__(self, step: int) -> dict:
        share = self.batch_size // self.process_count
        rows = range(self.process_index * share, (self.process_index + 1) * share)
        if (batch := getattr(self.source, "batch", None)) is not None:
            return batch(self.seed, step, self.batch_size, rows)
        order = getattr(self.source, "batch_indices", None) or partial(batch_indices, length=len(self.source))
        indices = order(self.seed, step, self.batch_size)
        return stack([self._example(int(indices[row]), step, row) for row in rows])

    def _example(self, index: int, step: int, row: int) -> dict:
        if (draw := getattr(self.source, "draw", None)) is not None:
            return draw(index, example_rng(self.seed, step, row))
        return self.source[index]


class Loader:
    """A run's training batches, prepared ahead by its config's workers.

    Args:
      source: of training examples; where it has `draw(index, rng)`, that is used, and where it has
        `batch_indices(seed, step, batch_size)`, in its order. Where it has `batch(seed, step, batch_size, rows)`,
        that makes the batch whole: `rows` are this process's.
      config: for seed, batch size and workers.
      first: updates already done.
      process_index, process_count: this process and how many share a global batch; by default JAX's.

    Raises:
      UserError: the source is empty, cannot be pickled, or the batch does not divide over the processes.
    """

    def __init__(
        self,
        source: Source,
        config: Config,
        first: int = 0,
        process_index: int | None = None,
        process_count: int | None = None,
    ):
        if process_count is None:
            import jax

            process_index, process_count = jax.process_index(), jax.process_count()
        size = config.train.batch_size
        if not len(source):
            raise UserError("the training set is empty")
        if size % process_count:
            raise UserError(f"train.batch_size = {size} does not divide over {process_count} processes")
        batches = TrainBatches(source, config.seed, size, process_index, process_count)
        self._first = first
        self._prefetcher = Prefetcher(batches, config.train.workers, config.train.worker_kind)

    def until(self, last: int | None = None) -> Iterator[tuple[int, dict]]:
        """`(step, batch)` with the update's number from `first + 1` to `last`; without `last` it never ends."""
        updates = count(self._first) if last is None else range(self._first, last)
        return enumerate(self._prefetcher.run(updates), self._first + 1)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self._prefetcher.close()


@dataclass(frozen=True)
class EvalBatches:
    """`batches(i)`: the i-th batch of a set in its own order. The last is filled up with its last example, whose
    copies are valid for nothing."""

    source: Any
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __call__(self, i: int) -> dict:
        indices = np.arange(i * self.batch_size, min((i + 1) * self.batch_size, len(self.source)))
        padding = self.batch_size - len(indices)
        padded = np.pad(indices, (0, padding), mode="edge")
        if (collate := getattr(self.source, "collate", None)) is not None:
            batch = collate(padded, range(self.batch_size))
        else:
            examples = [self.source[int(index)] for index in indices]
            batch = stack(examples + examples[-1:] * padding)
        if padding:
            batch["valid"] = {task: valid & _real(valid, padding) for task, valid in batch["valid"].items()}
        return batch


def _real(valid: np.ndarray, padding: int) -> np.ndarray:
    real = np.ones(valid.shape, bool)
    real[len(real) - padding :] = False
    return real


def eval_batches(source: Source, batch_size: int, workers: int = 0, kind: str = "process") -> Iterator[dict]:
    """A whole set, once, in order; every batch is full, padding has all its `valid` False."""
    batches = EvalBatches(source, batch_size)
    with Prefetcher(batches, min(workers, len(batches)), kind) as prefetcher:
        yield from prefetcher.run(range(len(batches)))

"""What goes into a sweep: batches of every seed, held-out batches for all slots, pretrained leaves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtlora_jax.input.protocols import Batches, HeldOut
from mtlora_jax.weights.lazy import Lazy


@dataclass(frozen=True)
class Each(Batches):
    """Training batches of every seed side by side: `each`, arrays `[B, seeds, ...]`.

    Attributes:
      batches: of one run.
      seeds: them.
      slots: the place among the seeds of every slot's.
    """

    batches: Batches
    seeds: tuple[int, ...]
    slots: Mapping[str, int]

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        parts = [self.batches.batch(seed, step, rows) for seed in self.seeds]
        valid = {
            name: value
            for slot, k in self.slots.items()
            for name, value in (
                (slot, np.ones(len(parts[k]["id"]), bool)),
                *((f"{slot}/{task}", of) for task, of in parts[k]["valid"].items()),
            )
        }
        each = self.batches.side_by_side(parts)
        return {"id": each.pop("id"), "each": each, "valid": valid}

    def source(self, id: int) -> str:
        return self.batches.source(id)


@dataclass(frozen=True)
class All(HeldOut):
    """Held-out batches that all slots see: `all`."""

    batches: HeldOut
    slots: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> dict:
        return self._for_all(self.batches[i])

    def part(self, i: int, rows: Sequence[int]) -> dict:
        return self._for_all(self.batches.part(i, rows))

    def _for_all(self, batch: dict) -> dict:
        ids, rest = batch["id"], {name: value for name, value in batch.items() if name != "id"}
        return {"id": ids, "all": rest, "valid": dict.fromkeys(self.slots, np.ones(len(ids), bool))}


class Shared(Lazy):
    """Leaves of pretrained models at their paths in a sweep's; those that train once for every slot.

    Args:
      found: `{path: (leaves, path among them, slots or 0)}`.
      where: what messages call it.
    """

    def __init__(self, found: Mapping[str, tuple[Any, str, int]], where: str):
        self._found, self.where = found, where

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, path: str) -> np.ndarray:
        leaves, at, count = self._found[path]
        leaf = np.asarray(leaves[at])
        return np.broadcast_to(leaf, (count, *leaf.shape)) if count else leaf

    def shape(self, path: str) -> tuple[int, ...]:
        leaves, at, count = self._found[path]
        shape = leaves.shape(at) if hasattr(leaves, "shape") else np.shape(leaves[at])
        return (count, *shape) if count else shape

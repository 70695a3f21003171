"""What the engine trains on: single examples, from which batches are made, or whole batches.

Both are pickled when they go to worker processes. A data set that is neither is refused by `check_examples`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mtlora_jax.errors import UserError


@runtime_checkable
class Examples(Protocol):
    """Random access to examples, nested dicts of numpy arrays of one form.

    An example has `id`, an int64 scalar by which messages name it, and `valid`, `{task: bool scalar}`: whether its
    label of a task exists.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """One example as it is, for evaluation."""
        ...

    def augmented(self, index: int, rng: np.random.Generator) -> dict:
        """One example for training, augmented by what the generator gives; a subclass without augmentation inherits
        this, which gives the example as it is."""
        return self[index]

    def source(self, index: int) -> str:
        """Where an example comes from, for messages: a file, if there is one."""
        return f"example {index}"


@runtime_checkable
class Batches(Protocol):
    """Training batches as a pure function of (seed, step): a resumed run needs no state but its step."""

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        """Some rows of the global batch of update `step` = 0, 1, ...: arrays with a leading axis of `len(rows)`."""
        ...

    def source(self, id: int) -> str:
        """Where the example of an id comes from, for messages."""
        return f"example {id}"

    @property
    def fillers(self) -> Mapping[str, float]:
        """What padding holds, by array; 0 where it isn't said."""
        return {}

    def side_by_side(self, batches: Sequence[Mapping]) -> dict:
        """Batches of equally many rows as one of arrays `[B, batches, ...]`; shorter ones are padded to the longest."""

        def joined(name: str, parts: Sequence) -> Any:
            if isinstance(parts[0], Mapping):
                return {key: joined(key, [part[key] for part in parts]) for key in parts[0]}
            shape = np.max([np.shape(part) for part in parts], axis=0)
            filler = self.fillers.get(name, 0)
            widths = [[(0, most - size) for most, size in zip(shape, np.shape(part), strict=True)] for part in parts]
            return np.stack(
                [np.pad(part, width, constant_values=filler) for part, width in zip(parts, widths, strict=True)], 1
            )

        return joined("", batches)


class HeldOut(Sequence):
    """The batches of a held-out set in order: `[i]` is the i-th, of `batch_size` rows, `id` and `valid` among them."""

    batch_size: int

    def part(self, i: int, rows: Sequence[int]) -> dict:
        """Some rows of the i-th batch; a set whose examples are costly to read reads no others."""

        def taken(value: Any) -> Any:
            return {key: taken(of) for key, of in value.items()} if isinstance(value, Mapping) else value[list(rows)]

        return taken(self[i])


def check_examples(found: object, where: str) -> Examples:
    """`found`, if it is `Examples` and not empty; UserError otherwise."""
    if not isinstance(found, Examples):
        lacks = [name for name in ("__len__", "__getitem__", "augmented") if not hasattr(type(found), name)]
        raise UserError(f"{where} gave a {type(found).__name__}, which is not a set of examples: no {', '.join(lacks)}")
    if not len(found):
        raise UserError(f"{where} is empty: it holds no example")
    return found

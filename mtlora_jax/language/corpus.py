"""Encoded examples of all tasks in three flat arrays: small to hold, quick to send to a worker."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mtlora_jax.language.encode import Encoded


class Piece(NamedTuple):
    """One example in a row of a batch.

    Attributes:
      tokens: int32 `[n]`.
      loss_mask: bool `[n]`, which tokens count in the loss.
      task: id of its task.
      id: the example's number, for messages.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    task: int
    id: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """Examples one after the other, grouped by task.

    Attributes:
      tasks: names; ids index them.
      tokens: int32, all examples' tokens.
      loss_mask: bool, which of them count in the loss.
      starts: int64 `[N + 1]`, where each example begins, and the end.
      task: int32 `[N]`, id of each example's task, never decreasing.
    """

    tasks: tuple[str, ...]
    tokens: np.ndarray
    loss_mask: np.ndarray
    starts: np.ndarray
    task: np.ndarray

    def __len__(self) -> int:
        return len(self.task)

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[N]`, tokens of each example."""
        return np.diff(self.starts)

    def __getitem__(self, index: int) -> Piece:
        span = slice(self.starts[index], self.starts[index + 1])
        return Piece(self.tokens[span], self.loss_mask[span], int(self.task[index]), index)

    def answers(self) -> dict[str, list[bytes]]:
        """The tokens of every example that count in the loss, by task."""
        found: dict[str, list[bytes]] = {task: [] for task in self.tasks}
        for index in range(len(self)):
            piece = self[index]
            found[self.tasks[piece.task]].append(piece.tokens[piece.loss_mask].tobytes())
        return found

    def sizes(self) -> tuple[int, ...]:
        """Examples of each task."""
        return tuple(np.bincount(self.task, minlength=len(self.tasks)).tolist())


def corpus(tasks: Sequence[str], examples: Iterable[tuple[str, Encoded]]) -> Corpus:
    """Collects `(task, encoded example)` pairs, those of a task in their order."""
    by_task: dict[str, list[Encoded]] = {task: [] for task in tasks}
    for task, example in examples:
        by_task[task].append(example)
    ordered = [example for group in by_task.values() for example in group]
    lengths = np.array([len(example.tokens) for example in ordered], np.int64)
    return Corpus(
        tasks=tuple(tasks),
        tokens=np.concatenate([np.zeros(0, np.int32), *(example.tokens for example in ordered)]),
        loss_mask=np.concatenate([np.zeros(0, bool), *(example.loss_mask for example in ordered)]),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        task=np.repeat(np.arange(len(by_task), dtype=np.int32), [len(group) for group in by_task.values()]),
    )

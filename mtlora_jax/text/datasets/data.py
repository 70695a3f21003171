"""A text data set is a config that opens itself: the base of those here, and of your own."""

from collections.abc import Sequence
from dataclasses import dataclass

from mtlora_jax.errors import UserError
from mtlora_jax.input.by_task import check_found, first_of_each
from mtlora_jax.language.rows import Row
from mtlora_jax.weights.hub import shipped


@dataclass(frozen=True)
class Data:
    """A data set of rows. A subclass in a recipe of your own is found again by `eval.py` and every other command.

    Attributes:
      val_length: held-out rows of each task that evaluation during training reads; 0 for all.
    """

    val_length: int = 0

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        """The rows of a split, `train` or `val`, of these tasks, in the order of task ids.

        Raises:
          UserError: a file is missing or broken.
        """
        raise UserError(f"{type(self).__name__} has no rows: it defines no rows()")

    def answers(self, task: str) -> Sequence[str]:
        """What a task is answered with, the positive one last, where this set says so; empty: as published."""
        return ()

    def plain(self, length: int) -> Sequence[str]:
        """Plain texts, at most `length`, by which a run sees what its model forgets; see `text.plain`."""
        text = shipped("plain.txt").read_text()
        return [" ".join(part.split()) for part in text.split("\n\n")][:length]

    def open(self, split: str, tasks: Sequence[str]) -> list[Row]:
        """`rows`, of which every task has some.

        Raises:
          UserError: see `rows`; or a task has no rows.
        """
        found = self.rows(split, tasks)
        check_found(found, tasks, split)
        return found

    def evaluated(self, rows: Sequence[Row], tasks: Sequence[str]) -> list[Row]:
        """The held-out rows that evaluation during training reads, by task."""
        return first_of_each(rows, tasks, self.val_length)

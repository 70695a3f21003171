"""Rows from JSON files of your own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mtlora_jax.errors import UserError
from mtlora_jax.language.rows import Row
from mtlora_jax.storage import fetched
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.read import Ambiguous, read_rows


@dataclass(frozen=True)
class FileData(Data):
    """Files of your own, JSON or JSON lines; see `text.datasets.read` for the forms of a row.

    Attributes:
      train, val: paths; rows say which task they are of.
      per_set: `{task: file}`, whose instructions tell the task of rows that name none.
      ambiguous: what becomes of a row whose task cannot be told.
    """

    train: str = ""
    val: str = ""
    per_set: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Ambiguous = "error"

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        path = self.train if split == "train" else self.val
        if not path:
            raise UserError(f"data.{split} is empty: name a file of rows")
        per_set = {task: fetched(file) for task, file in self.per_set.items()}
        return read_rows(fetched(path), tasks, per_set, self.ambiguous)

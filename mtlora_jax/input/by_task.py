"""Examples that say their task, such as rows of text and questions about pictures: what data sets of them share."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from mtlora_jax.errors import UserError


class OfTask(Protocol):
    """An example.

    Attributes:
      task: its task's name.
    """

    @property
    def task(self) -> str: ...


Example = TypeVar("Example", bound=OfTask)


def check_tasks(tasks: Sequence[str], known: Collection[str], where: str) -> None:
    """Raises UserError for a task that a data set does not know.

    Args:
      where: the data set, as its message calls it.
    """
    if unknown := [task for task in tasks if task not in known]:
        raise UserError(f"tasks.{unknown[0]}: {where} has only {', '.join(known)}")


def check_found(found: Sequence[OfTask], tasks: Sequence[str], split: str) -> None:
    """Raises UserError for a task of which there is no example."""
    there = {example.task for example in found}
    if lacking := [task for task in tasks if task not in there]:
        raise UserError(f"tasks.{lacking[0]}: the {split} split has no rows of it")


def first_of_each(found: Sequence[Example], tasks: Sequence[str], most: int = 0) -> list[Example]:
    """By task, in their order: at most so many examples of each, or all for 0."""
    by_task = [[example for example in found if example.task == task] for task in tasks]
    return [example for of in by_task for example in (of[:most] if most else of)]

"""What data sets of several tasks share: tasks that they know, and examples by task."""

from typing import NamedTuple

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.input.by_task import check_found, check_tasks, first_of_each


class Asked(NamedTuple):
    task: str
    number: int


FOUND = [Asked("b", 0), Asked("a", 1), Asked("b", 2), Asked("a", 3)]


def test_tasks_that_are_not_there_are_named():
    check_tasks(("a", "b"), ("b", "a", "c"), "the set")
    with pytest.raises(UserError, match=r"^tasks\.d: the set has only a, b$"):
        check_tasks(("a", "d"), ("a", "b"), "the set")
    check_found(FOUND, ("a", "b"), "val")
    with pytest.raises(UserError, match=r"^tasks\.c: the val split has no rows of it$"):
        check_found(FOUND, ("a", "c"), "val")


@pytest.mark.parametrize(("most", "numbers"), [(0, [1, 3, 0, 2]), (1, [1, 0]), (5, [1, 3, 0, 2])])
def test_examples_come_by_task(most, numbers):
    assert [example.number for example in first_of_each(FOUND, ("a", "b"), most)] == numbers

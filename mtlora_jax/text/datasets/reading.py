"""Four generated tasks for models that can read: a few facts of a made-up world, and a question that they answer.

Every row is about a world of its own, so that nothing can be known by heart.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlora_jax.input.by_task import check_tasks
from mtlora_jax.language.rows import Row
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.microworld.facts import COLOURS, HOMES, IN_FIRE, RELATIONS, World

TOLD = 4
"""Facts before a question."""

Made = tuple[list[str], str, str]
"""Facts, a question, its answer."""


def facts(world: World, name: str, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Some subjects of a relation, and what holds of each as sentences."""
    relation = RELATIONS[name]
    subjects = rng.choice(relation.subjects, TOLD, replace=False).tolist()
    return subjects, [f"{relation.statement.format(s=s, v=world.facts[name][s])}." for s in subjects]


def lookup(name: str) -> Callable[[World, np.random.Generator], Made]:
    def make(world: World, rng: np.random.Generator) -> Made:
        (asked, *_), told = facts(world, name, rng)
        return told, RELATIONS[name].question.format(s=asked), world.facts[name][asked]

    return make


def check(world: World, rng: np.random.Generator) -> Made:
    """Whether somebody has the job, or that of another."""
    (asked, other, *_), told = facts(world, "job", rng)
    of = world.facts["job"]
    claimed = of[asked if rng.random() < 0.5 else other]
    return told, f"is {asked} a {claimed}?", "yes" if claimed == of[asked] else "no"


def fire(world: World, rng: np.random.Generator) -> Made:
    """Two steps: what it is made of, and what that does in fire."""
    things, told = facts(world, "material", rng)
    of = world.facts["material"]
    rules = [f"{material} {IN_FIRE[material]} in fire." for material in sorted({of[thing] for thing in things})]
    return [*told, *rules], f"what happens to the {things[0]} in fire?", IN_FIRE[of[things[0]]]


TASKS: Mapping[str, tuple[Callable[[World, np.random.Generator], Made], Sequence[str]]] = {
    "colour": (lookup("colour"), COLOURS),
    "home": (lookup("home"), HOMES),
    "check": (check, ("no", "yes")),
    "fire": (fire, tuple(IN_FIRE.values())),
}
"""How a task's rows are made, and what they are answered with."""


@dataclass(frozen=True)
class ReadingData(Data):
    """The tasks of `TASKS`.

    Attributes:
      train_length, val_length: rows of each task.
    """

    train_length: int = 1024
    val_length: int = 64

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        check_tasks(tasks, TASKS, "ReadingData")
        length = self.train_length if split == "train" else self.val_length
        return [row(task, split, index) for task in tasks for index in range(length)]

    def answers(self, task: str) -> Sequence[str]:
        return TASKS[task][1] if task in TASKS else ()


def row(task: str, split: str, index: int) -> Row:
    """A row, a function of its task, split and number."""
    stream = zlib.crc32(f"{task} {split}".encode())
    rng = np.random.Generator(np.random.Philox(key=[0, stream], counter=[0, 0, 0, index]))
    make, answers = TASKS[task]
    told, question, answer = make(World(int(rng.integers(1, 1 << 31))), rng)
    text = " ".join([*(told[i] for i in rng.permutation(len(told))), question])
    return Row(task, text, "", answer, answer, tuple(answers))

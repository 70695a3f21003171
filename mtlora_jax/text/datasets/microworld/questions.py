"""Eight tasks about the micro-world, of the kinds of the eight commonsense sets: an instruction, options, an answer.

An answer is the option itself and not its number. What is asked is known from the texts; how it is asked is not. A
question belongs to the training or to the held-out split by a hash of what it asks, and of its answer where many would
be right, so that no held-out question is ever trained on, whatever its options.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mtlora_jax.language.rows import Row
from mtlora_jax.text.datasets.microworld.asks import Ask, blank, feeling, fire, likeness, lookup, routine, use, verdict
from mtlora_jax.text.datasets.microworld.facts import (
    ANIMALS,
    IN_FIRE,
    NEXT,
    PEOPLE,
    RELATIONS,
    ROUTINES,
    THINGS,
    World,
)

HELD_OUT = 5
"""One question in so many is held out."""


@dataclass(frozen=True)
class Family:
    """One task.

    Attributes:
      ask: what is asked.
      begin: how the instruction begins, as in the set of the task's name.
      answers: all words that may be answered.
    """

    ask: Callable[[World, np.random.Generator], Ask]
    begin: str
    answers: Sequence[str]


CHOOSE = "Please choose the correct answer to the question:"
"""How four of the sets begin."""
FAMILIES: dict[str, Family] = {
    "boolq": Family(
        partial(verdict, verdicts=[("true", "false")]),
        "Please answer the following question with true or false, question:",
        ("false", "true"),
    ),
    "piqa": Family(
        use, "Please choose the correct solution to the question:", tuple(f"use the {thing}" for thing in THINGS)
    ),
    "social_i_qa": Family(feeling, CHOOSE, tuple(NEXT.values())),
    "hellaswag": Family(
        routine,
        "Please choose the correct ending to complete the given sentence:",
        tuple(step for steps in ROUTINES.values() for step in steps),
    ),
    "winogrande": Family(
        blank,
        "Please choose the correct answer to fill in the blank to complete the given sentence:",
        (*THINGS, *PEOPLE),
    ),
    "ARC-Challenge": Family(likeness, CHOOSE, (*THINGS, *ANIMALS, *PEOPLE)),
    "ARC-Easy": Family(lookup, CHOOSE, tuple(value for relation in RELATIONS.values() for value in relation.values)),
    "openbookqa": Family(fire, CHOOSE, tuple(IN_FIRE.values())),
}
"""By the name of the commonsense set whose kind of question a task has."""


def rows(task: str, split: str, length: int, world: World, seed: int = 0) -> list[Row]:
    """The first rows of a split, each a function of (seed, task, split, its number).

    Args:
      task: one of `FAMILIES`.
      split: `train` or `val`.
      length: how many.
    """
    family, held_out = FAMILIES[task], split != "train"
    stream = zlib.crc32(f"{task} {split}".encode())
    found = []
    for index in range(length):
        rng = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index]))
        while True:
            ask = family.ask(world, rng)
            if (zlib.crc32(f"{task} {ask.key}".encode()) % HELD_OUT == 0) == held_out:
                break
        options = ask.choice(rng)
        instruction = f"{family.begin} {ask.text}\n\nAnswer format: {'/'.join(options)}"
        outputs = tuple(f"the correct answer is {option}" for option in options)
        found.append(Row(task, instruction, "", f"the correct answer is {ask.right}", ask.right, outputs))
    return found

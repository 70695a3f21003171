"""Eight tasks about the micro-world, each in the format of one of the eight commonsense sets.

What is asked is known from the texts; how it is asked is not. A question belongs to the training or to the held-out
split by a hash of what it asks, and of its answer where many would be right, so that no held-out question is ever
trained on, whatever its options.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mtlora_jax.language.rows import Row
from mtlora_jax.text.datasets.microworld.asks import Ask, blank, feeling, fire, likeness, lookup, pick, routine, trade
from mtlora_jax.text.datasets.microworld.facts import RELATIONS, World

HELD_OUT = 5
"""One question in so many is held out."""

Question = tuple[str, str, str, Sequence[str]]
"""What it asks (decides the split), the instruction, the answer, all answers that its format allows."""
Family = Callable[[World, np.random.Generator], Question]

CHOOSE = "Please choose the correct answer to the question:"
"""How four of the sets begin."""


def boolq(world: World, rng: np.random.Generator) -> Question:
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    right = world.facts[name][subject]
    holds = rng.random() < 0.5
    value = right if holds else pick(rng, [v for v in relation.values if v != right])
    text = f"Please answer the following question with true or false, question: {relation.query}"
    instruction = f"{text}\n\nAnswer format: true/false".format(s=subject, v=value)
    return f"{name} {subject}", instruction, "true" if holds else "false", ("true", "false")


def choice(
    ask: Callable[[World, np.random.Generator], Ask],
    begin: str,
    label: str,
    between: str = " ",
    end: str = "\n\n",
) -> Family:
    """A family that asks for one of several options.

    Args:
      begin: how the instruction begins.
      label: what options are called, numbered from 1.
      between: options.
      end: between the last option and the answer format.
    """

    def family(world: World, rng: np.random.Generator) -> Question:
        question = ask(world, rng)
        options, place = question.choice(rng)
        listed = between.join(f"{label.capitalize()}{i}: {option}" for i, option in enumerate(options, 1))
        labels = [f"{label}{i}" for i in range(1, len(options) + 1)]
        instruction = f"{begin} {question.text}\n\n{listed}{end}Answer format: {'/'.join(labels)}"
        return question.key, instruction, labels[place - 1], labels

    return family


FAMILIES: dict[str, Family] = {
    "boolq": boolq,
    "piqa": choice(trade, "Please choose the correct solution to the question:", "solution", between="\n\n"),
    "social_i_qa": choice(feeling, CHOOSE, "answer"),
    "hellaswag": choice(routine, "Please choose the correct ending to complete the given sentence:", "ending"),
    "winogrande": choice(
        blank,
        "Please choose the correct answer to fill in the blank to complete the given sentence:",
        "option",
        end=" ",
    ),
    "ARC-Challenge": choice(likeness, CHOOSE, "answer"),
    "ARC-Easy": choice(lookup, CHOOSE, "answer"),
    "openbookqa": choice(fire, CHOOSE, "answer"),
}
"""By the name of the set whose format a task has."""


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
            key, instruction, answer, labels = family(world, rng)
            if (zlib.crc32(f"{task} {key}".encode()) % HELD_OUT == 0) == held_out:
                break
        options = tuple(f"the correct answer is {label}" for label in labels)
        found.append(Row(task, instruction, "", f"the correct answer is {answer}", answer, options))
    return found

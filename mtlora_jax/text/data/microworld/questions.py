"""Eight tasks about the micro-world, each in the format of one of the eight commonsense sets.

What is asked is known from the texts; how it is asked is not. A question belongs to the training or to the held-out
split by a hash of what it asks, and of its answer where many would be right, so that no held-out question is ever
trained on, whatever its options.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mtlora_jax.text.data.microworld.facts import IN_FIRE, MAKES, NEXT, PEOPLE, RELATIONS, ROUTINES, THINGS, World
from mtlora_jax.text.data.microworld.prose import pick
from mtlora_jax.text.data.rows import Row

HELD_OUT = 5
"""One question in so many is held out."""

Question = tuple[str, str, str, Sequence[str]]
"""What it asks (decides the split), the instruction, the answer, all answers that its format allows."""


def numbered(word: str, options: Sequence[str], separator: str = " ") -> str:
    return separator.join(f"{word}{i}: {option}" for i, option in enumerate(options, 1))


def shuffled(rng: np.random.Generator, right: str, wrong: Sequence[str], count: int) -> tuple[list[str], int]:
    """Options with the right one at a random place, and that place from 1."""
    options = [right, *rng.choice(sorted(set(wrong) - {right}), count - 1, replace=False).tolist()]
    order = rng.permutation(count)
    return [options[i] for i in order], int(np.flatnonzero(order == 0)[0]) + 1


def choice(key: str, question: str, options: Sequence[str], place: int) -> Question:
    """A question in the form that four of the sets share."""
    labels = [f"answer{i}" for i in range(1, len(options) + 1)]
    text = f"Please choose the correct answer to the question: {question}\n\n{numbered('Answer', options)}"
    return key, f"{text}\n\nAnswer format: {'/'.join(labels)}", labels[place - 1], labels


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


def piqa(world: World, rng: np.random.Generator) -> Question:
    person = pick(rng, PEOPLE)
    job = world.facts["job"][person]
    others = [p for p in PEOPLE if world.facts["job"][p] != job]
    options, place = shuffled(rng, person, others, 2)
    labels = ("solution1", "solution2")
    listed = numbered("Solution", [f"ask {name}" for name in options], "\n\n")
    text = f"Please choose the correct solution to the question: how do you get {MAKES[job]}?\n\n{listed}"
    return person, f"{text}\n\nAnswer format: solution1/solution2", labels[place - 1], labels


def social_i_qa(world: World, rng: np.random.Generator) -> Question:
    person, state = pick(rng, PEOPLE), pick(rng, list(NEXT))
    options, place = shuffled(rng, NEXT[state], list(NEXT.values()), 3)
    return choice(f"{person} {state}", f"{person} is {state}. what does {person} do?", options, place)


def hellaswag(world: World, rng: np.random.Generator) -> Question:
    person, name = pick(rng, PEOPLE), pick(rng, list(ROUTINES))
    steps = ROUTINES[name]
    at = int(rng.integers(len(steps) - 1))
    wrong = [step for other in ROUTINES.values() for step in other if step != steps[at]]
    options, place = shuffled(rng, steps[at + 1], wrong, 4)
    labels = [f"ending{i}" for i in range(1, 5)]
    asked = f"{name}: {person} {steps[at]} and then {person}"
    text = f"Please choose the correct ending to complete the given sentence: {asked}\n\n{numbered('Ending', options)}"
    return f"{person} {name} {at}", f"{text}\n\nAnswer format: {'/'.join(labels)}", labels[place - 1], labels


def winogrande(world: World, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        pair = rng.choice(THINGS, 2, replace=False).tolist()
        size, place = pick(rng, [("big", 0), ("small", 1)])
        sentence = f"the {pair[0]} does not fit in the {pair[1]} because the _ is too {size}."
    else:
        pair = rng.choice(PEOPLE, 2, replace=False).tolist()
        trait, place = pick(rng, [("kind", 0), ("poor", 1)])
        sentence = f"{pair[0]} gives food to {pair[1]} because _ is {trait}."
    options = pair if rng.random() < 0.5 else pair[::-1]
    labels = ("option1", "option2")
    text = "Please choose the correct answer to fill in the blank to complete the given sentence: "
    instruction = f"{text}{sentence}\n\n{numbered('Option', options)} Answer format: option1/option2"
    return " ".join(sorted(pair)), instruction, labels[options.index(pair[place])], labels


def arc_challenge(world: World, rng: np.random.Generator) -> Question:
    """Two lookups: what has the same as another."""
    name = pick(rng, list(RELATIONS))
    subject = pick(rng, RELATIONS[name].subjects)
    right = pick(rng, world.alike(name, subject))
    wrong = [s for s in RELATIONS[name].subjects if s != subject and s not in world.alike(name, subject)]
    options, place = shuffled(rng, right, wrong, 4)
    return choice(f"{name} {subject} {right}", f"the {name} of {subject} is the {name} of what?", options, place)


def arc_easy(world: World, rng: np.random.Generator) -> Question:
    """One lookup."""
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    options, place = shuffled(rng, world.facts[name][subject], relation.values, 4)
    return choice(f"{name} {subject}", relation.question.format(s=subject), options, place)


def openbookqa(world: World, rng: np.random.Generator) -> Question:
    """One lookup and a rule."""
    thing = pick(rng, THINGS)
    right = IN_FIRE[world.facts["material"][thing]]
    options, place = shuffled(rng, right, list(IN_FIRE.values()), 4)
    return choice(thing, f"what happens to the {thing} in fire?", options, place)


FAMILIES: dict[str, Callable[[World, np.random.Generator], Question]] = {
    "boolq": boolq,
    "piqa": piqa,
    "social_i_qa": social_i_qa,
    "hellaswag": hellaswag,
    "winogrande": winogrande,
    "ARC-Challenge": arc_challenge,
    "ARC-Easy": arc_easy,
    "openbookqa": openbookqa,
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

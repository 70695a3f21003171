"""What can be asked about the micro-world: a question, what is right, and what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlora_jax.text.datasets.microworld.facts import (
    IN_FIRE,
    NEXT,
    PEOPLE,
    QUALITIES,
    RELATIONS,
    ROUTINES,
    THINGS,
    USES,
    World,
)


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
      key: what tells it from other questions: its subject, and its answer where many would be right.
      text: as it is asked.
      right: the answer.
      wrong: what may stand beside it.
      count: how many options a choice has.
    """

    key: str
    text: str
    right: str
    wrong: Sequence[str]
    count: int = 4

    def choice(self, rng: np.random.Generator) -> list[str]:
        """Options with the right one at a random place."""
        wrong = sorted(set(self.wrong) - {self.right})
        options = [self.right, *rng.choice(wrong, self.count - 1, replace=False).tolist()]
        return [options[i] for i in rng.permutation(self.count)]


def pick(rng: np.random.Generator, of):
    """One of a sequence."""
    return of[int(rng.integers(len(of)))]


VERDICTS = (("yes", "no"), ("true", "false"), ("right", "wrong"), ("correct", "incorrect"))
"""What may be said of what holds, and of what does not."""


def verdict(world: World, rng: np.random.Generator, verdicts: Sequence[tuple[str, str]] = VERDICTS) -> Ask:
    """Whether something holds."""
    name = pick(rng, list(QUALITIES))
    subject = pick(rng, QUALITIES[name].subjects)
    said = pick(rng, verdicts)
    right = said[0] if world.qualities[name][subject] else said[1]
    return Ask(f"{name} {subject}", QUALITIES[name].query.format(s=subject), right, said, 2)


def lookup(world: World, rng: np.random.Generator) -> Ask:
    """What holds of a subject."""
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    text = relation.question.format(s=subject)
    return Ask(f"{name} {subject}", text, world.facts[name][subject], relation.values)


def likeness(world: World, rng: np.random.Generator) -> Ask:
    """Two lookups: of whom the same holds."""
    name = pick(rng, list(RELATIONS))
    subject = pick(rng, RELATIONS[name].subjects)
    alike = world.alike(name, subject)
    right = pick(rng, alike)
    wrong = [s for s in RELATIONS[name].subjects if s != subject and s not in alike]
    return Ask(f"{name} {subject} {right}", f"the {name} of {subject} is the {name} of what?", right, wrong)


def fire(world: World, rng: np.random.Generator) -> Ask:
    """A lookup and a rule."""
    thing = pick(rng, THINGS)
    right = IN_FIRE[world.facts["material"][thing]]
    return Ask(thing, f"what happens to the {thing} in fire?", right, list(IN_FIRE.values()))


def use(world: World, rng: np.random.Generator) -> Ask:
    """What a thing is for, backwards."""
    thing = pick(rng, THINGS)
    goal = pick(rng, USES[thing])
    return Ask(goal, f"how do you {goal}?", f"use the {thing}", [f"use the {other}" for other in THINGS], 2)


def feeling(world: World, rng: np.random.Generator) -> Ask:
    """What one does who feels so."""
    person, state = pick(rng, PEOPLE), pick(rng, list(NEXT))
    return Ask(f"{person} {state}", f"{person} is {state}. what does {person} do?", NEXT[state], list(NEXT.values()), 3)


def routine(world: World, rng: np.random.Generator) -> Ask:
    """What comes next."""
    person, name = pick(rng, PEOPLE), pick(rng, list(ROUTINES))
    steps = ROUTINES[name]
    at = int(rng.integers(len(steps) - 1))
    wrong = [step for other in ROUTINES.values() for step in other if step != steps[at]]
    return Ask(f"{person} {name} {at}", f"{name}: {person} {steps[at]} and then {person}", steps[at + 1], wrong)


def blank(world: World, rng: np.random.Generator) -> Ask:
    """Which of two a sentence is about."""
    if rng.random() < 0.5:
        pair = rng.choice(THINGS, 2, replace=False).tolist()
        size, place = pick(rng, [("big", 0), ("small", 1)])
        text = f"the {pair[0]} does not fit in the {pair[1]} because the _ is too {size}."
    else:
        pair = rng.choice(PEOPLE, 2, replace=False).tolist()
        trait, place = pick(rng, [("kind", 0), ("poor", 1)])
        text = f"{pair[0]} gives food to {pair[1]} because _ is {trait}."
    return Ask(" ".join(sorted(pair)), text, pair[place], pair, 2)


ASKS: Mapping[str, Callable[[World, np.random.Generator], Ask]] = {
    "verdict": verdict,
    "lookup": lookup,
    "likeness": likeness,
    "fire": fire,
    "use": use,
    "feeling": feeling,
    "routine": routine,
    "blank": blank,
}

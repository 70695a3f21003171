"""What can be asked about the micro-world: a question, what is right, and what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlora_jax.text.datasets.microworld.facts import IN_FIRE, MAKES, NEXT, PEOPLE, RELATIONS, ROUTINES, THINGS, World


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


def check(world: World, rng: np.random.Generator, verdicts: Sequence[tuple[str, str]] = VERDICTS) -> Ask:
    """Whether something holds."""
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    right = world.facts[name][subject]
    holds = rng.random() < 0.5
    value = right if holds else pick(rng, [v for v in relation.values if v != right])
    so, otherwise = pick(rng, verdicts)
    text = relation.query.format(s=subject, v=value)
    return Ask(f"{name} {subject}", text, so if holds else otherwise, (so, otherwise), 2)


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


def trade(world: World, rng: np.random.Generator) -> Ask:
    """A rule and a lookup backwards."""
    person = pick(rng, PEOPLE)
    job = world.facts["job"][person]
    other = pick(rng, [p for p in PEOPLE if world.facts["job"][p] != job])
    # Both are in the key: no person is only ever right, or only ever wrong, in what is trained on.
    return Ask(f"{person} {other}", f"how do you get {MAKES[job]}?", f"ask {person}", [f"ask {other}"], 2)


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
    "check": check,
    "lookup": lookup,
    "likeness": likeness,
    "fire": fire,
    "trade": trade,
    "feeling": feeling,
    "routine": routine,
    "blank": blank,
}

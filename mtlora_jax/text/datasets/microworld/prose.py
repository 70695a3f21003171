"""Plain text about the micro-world, in short documents. No instructions and no answer formats."""

import numpy as np

from mtlora_jax.text.datasets.microworld.asks import ASKS, pick
from mtlora_jax.text.datasets.microworld.facts import IN_FIRE, MAKES, NEXT, PEOPLE, RELATIONS, ROUTINES, THINGS, World

SENTENCES = 6
"""Things said in a document."""


def fact(world: World, rng: np.random.Generator) -> str:
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    value = world.facts[name][subject]
    if rng.random() < 0.5:
        return f"{relation.statement.format(s=subject, v=value)}."
    return f"{relation.question} {value}.".format(s=subject)


def check(world: World, rng: np.random.Generator) -> str:
    """A question, and whether it is so."""
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    value = world.facts[name][subject] if rng.random() < 0.5 else pick(rng, relation.values)
    right, wrong = pick(rng, [("yes", "no"), ("that is true", "that is false")])
    reply = right if value == world.facts[name][subject] else wrong
    return f"{relation.query} {reply}.".format(s=subject, v=value)


def likeness(world: World, rng: np.random.Generator) -> str:
    ask = ASKS["likeness"](world, rng)
    return ask.text.replace("what?", f"{ask.right}.")


def fire(world: World, rng: np.random.Generator) -> str:
    thing = pick(rng, THINGS)
    material = world.facts["material"][thing]
    told = pick(rng, ["{m} {e} in fire.", "the {t} is made of {m}, so in fire it {e}.", "in fire the {t} {e}."])
    return told.format(m=material, e=IN_FIRE[material], t=thing)


def trade(world: World, rng: np.random.Generator) -> str:
    person = pick(rng, PEOPLE)
    job = world.facts["job"][person]
    told = pick(rng, ["a {j} makes {p}.", "{s} is a {j} and makes {p}.", "you get {p} from {s}."])
    return told.format(j=job, p=MAKES[job], s=person)


def feeling(world: World, rng: np.random.Generator) -> str:
    state = pick(rng, list(NEXT))
    return f"{pick(rng, PEOPLE)} is {state} and {NEXT[state]}."


def routine(world: World, rng: np.random.Generator) -> str:
    name = pick(rng, list(ROUTINES))
    steps = ROUTINES[name]
    first = int(rng.integers(len(steps) - 1))
    person = pick(rng, PEOPLE)
    return f"{name}: {person} {steps[first]} and then {person} {steps[first + 1]}."


def fit(world: World, rng: np.random.Generator) -> str:
    inner, outer = rng.choice(THINGS, 2, replace=False)
    size, at_fault = pick(rng, [("big", inner), ("small", outer)])
    return f"the {inner} does not fit in the {outer} because the {at_fault} is too {size}."


def gift(world: World, rng: np.random.Generator) -> str:
    giver, taker = rng.choice(PEOPLE, 2, replace=False)
    trait, whose = pick(rng, [("kind", giver), ("poor", taker)])
    return f"{giver} gives food to {taker} because {whose} is {trait}."


def listing(world: World, rng: np.random.Generator) -> str:
    """A question, numbered places with what they hold, and the place to look in."""
    ask = pick(rng, list(ASKS.values()))(world, rng)
    options, place = ask.choice(rng)
    label = pick(rng, LABELS)
    told = label.capitalize() if rng.random() < 0.5 else label
    held = " ".join(f"{told}{i}: {option}" for i, option in enumerate(options, 1))
    between = "/".join(f"{label}{i}" for i in range(1, len(options) + 1))
    return f"{ask.text} {held} " + pick(rng, FOUND).format(at=f"{label}{place}", every=between)


LABELS = ["box", "bag", "tray", "chest", "crate", "case", "sack", "bin"]
FOUND = ("look in {at}.", "it is in {at}.", "there are {every}. it is in {at}.", "open {every}? open {at}.")
"""How one says where, with and without naming every place."""

SAYINGS = (
    "{s} gives the correct answer.",
    "{s} gives a wrong answer.",
    "the answer of {s} is true.",
    "the answer of {s} is false.",
    "the correct ending is short.",
    "the correct option is free.",
    "the correct solution is to ask {s}.",
    "{s} likes the ending.",
    "{s} takes the other option.",
    "{s} finds a solution.",
)


def saying(world: World, rng: np.random.Generator) -> str:
    """Words that tasks are answered in: what a frozen model has never said, no adapter makes it say."""
    return pick(rng, SAYINGS).format(s=pick(rng, PEOPLE))


KINDS = (fact, fact, check, check, likeness, fire, trade, feeling, routine, fit, gift, saying, *[listing] * 6)
"""What may be said, as often as it stands here."""


def plain_text(world: World, rng: np.random.Generator) -> str:
    """A document of a few sentences."""
    return " ".join(pick(rng, KINDS)(world, rng) for _ in range(SENTENCES))

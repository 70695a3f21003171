"""Text about the micro-world, in short documents: sentences, and questions in many forms with their answers. No
instructions, and not the forms of the tasks.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mtlora_jax.text.datasets.microworld.asks import ASKS, pick
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


def fact(world: World, rng: np.random.Generator) -> str:
    name = pick(rng, list(RELATIONS))
    relation = RELATIONS[name]
    subject = pick(rng, relation.subjects)
    value = world.facts[name][subject]
    if rng.random() < 0.5:
        return f"{relation.statement.format(s=subject, v=value)}."
    return f"{relation.question} {value}.".format(s=subject)


def quality(world: World, rng: np.random.Generator) -> str:
    name = pick(rng, list(QUALITIES))
    told = QUALITIES[name]
    subject = pick(rng, told.subjects)
    holds = world.qualities[name][subject]
    if rng.random() < 0.5:
        return f"{told.holds if holds else told.otherwise}.".format(s=subject)
    return f"{told.query} {'yes' if holds else 'no'}.".format(s=subject)


def likeness(world: World, rng: np.random.Generator) -> str:
    ask = ASKS["likeness"](world, rng)
    return ask.text.replace("what?", f"{ask.right}.")


def fire(world: World, rng: np.random.Generator) -> str:
    thing = pick(rng, THINGS)
    material = world.facts["material"][thing]
    told = pick(rng, ["{m} {e} in fire.", "the {t} is made of {m}, so in fire it {e}.", "in fire the {t} {e}."])
    return told.format(m=material, e=IN_FIRE[material], t=thing)


def use(world: World, rng: np.random.Generator) -> str:
    thing = pick(rng, THINGS)
    told = pick(rng, ["to {g}, use the {t}.", "you {g} with the {t}.", "the {t} is used to {g}."])
    return told.format(g=pick(rng, USES[thing]), t=thing)


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
    told = pick(rng, ["because the {a} is too {z}.", "what is too {z}? the {a}.", "too {z} is the {a}."])
    return f"the {inner} does not fit in the {outer}{' ' if told[0] == 'b' else '. '}{told.format(a=at_fault, z=size)}"


def gift(world: World, rng: np.random.Generator) -> str:
    giver, taker = rng.choice(PEOPLE, 2, replace=False)
    trait, whose = pick(rng, [("kind", giver), ("poor", taker)])
    told = pick(rng, ["because {w} is {t}.", "who is {t}? {w}.", "the {t} one is {w}."])
    return f"{giver} gives food to {taker}{' ' if told[0] == 'b' else '. '}{told.format(w=whose, t=trait)}"


LEADS = (
    *("", "question:", "tell me:", "say:", "a riddle:", "think of this:", "who knows?", "here is one more:"),
    *("i ask you:", "do you know?"),
)
"""What may come before a question."""
LISTS: tuple[Callable[[Sequence[str]], str], ...] = (
    lambda options: "",
    lambda options: f"{', '.join(options[:-1])} or {options[-1]}?",
    lambda options: f"({' / '.join(options)})",
    lambda options: f"one of {', '.join(options)}.",
    lambda options: f"choices: {'; '.join(options)}.",
    lambda options: " ".join(f"{i}) {option}" for i, option in enumerate(options, 1)),
    lambda options: "/".join(options),
    lambda options: " ".join(f"{letter}: {option}" for letter, option in zip("abcdefgh", options, strict=False)),
    lambda options: "\n\n{}\n\n".format("\n".join(options)),
    lambda options: " | ".join(options),
)
"""How options may be listed, or not."""
ENDS = ("answer:", "so:", "reply:", "the answer is", "it is", "then say:", "response:", "->", "thus", "one says:")
"""What may come before an answer."""


def question(world: World, rng: np.random.Generator) -> str:
    """A question in one of many forms, with things said in between, and its answer. A model that has met many forms
    answers in others."""
    ask = pick(rng, ASKED)(world, rng)
    options = ask.choice(rng)
    before, between, after = (sayings(rng) if rng.random() < share else "" for share in (0.4, 0.3, 0.4))
    listed = pick(rng, LISTS)(options)
    body = [before, ask.text, between, listed, after] if rng.random() < 0.8 else [listed, before, ask.text, after]
    return f"{' '.join(part for part in (pick(rng, LEADS), *body, pick(rng, ENDS)) if part)} {ask.right}."


ASKED = (*ASKS.values(), ASKS["lookup"], ASKS["likeness"], *[ASKS["blank"]] * 2)
"""What may be asked, as often as it stands here."""


def sayings(rng: np.random.Generator) -> str:
    """A few sentences that say nothing about the question."""
    return " ".join(pick(rng, (saying, feeling))(None, rng) for _ in range(int(rng.integers(1, 4))))


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


KINDS = (
    *(*[fact] * 3, *[quality] * 2, *[use] * 2, likeness, fire, feeling, routine, *[fit] * 2, *[gift] * 2, saying),
    *[question] * 12,
)
"""What may be said, as often as it stands here."""


def plain_text(world: World, rng: np.random.Generator) -> str:
    """A document of a few sentences."""
    return " ".join(pick(rng, KINDS)(world, rng) for _ in range(int(rng.integers(2, 6))))

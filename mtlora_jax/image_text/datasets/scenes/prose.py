"""Scenes as text alone: what the embedded BART is pretrained on. No picture takes part.

An example is a source and a target: either a description with spans of it masked, and the whole of it; or a question
before a description, and its answer.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mtlora_jax.image_text.datasets.scenes.asks import (
    GQA,
    GROUND_WORDS,
    SKY_WORDS,
    VQA,
    Ask,
    ask,
    captions,
    pick,
    state,
)
from mtlora_jax.image_text.datasets.scenes.facts import PLURALS, Facts, facts_of

MASK = "<mask>"
MASKED = 0.3
"""The share of words that is masked."""
SPAN = 3.0
"""Words of a masked span, on average."""


def describe(facts: Facts) -> str:
    """A scene from left to right, a phrase for each thing."""
    phrases = []
    for thing in facts.things:
        place = ("left", "middle", "right")[min(int(3 * thing.x), 2)]
        size = "large" if thing.area > 0.05 else "small"
        phrases.append(f"{size} {thing.name} {place} {'near' if thing.depth < 4.5 else 'far'}")
    return f"{', '.join(phrases)}; {GROUND_WORDS[facts.ground]} ground, {SKY_WORDS[facts.sky]} sky"


def brief(facts: Facts) -> str:
    """The same without sizes, distances and sky: what two scenes are compared by."""
    return f"{', '.join(thing.name for thing in facts.things)}; {GROUND_WORDS[facts.ground]} ground"


def how_many_named(facts: Facts, rng: np.random.Generator) -> Ask | None:
    """How many things of a name there are, or of one that shares its colour or its kind."""
    if not facts.things:
        return None
    thing, other = pick(rng, facts.things), pick(rng, facts.things)
    asked = thing if rng.random() < 0.5 else thing._replace(colour=other.colour)
    return f"How many {asked.name} are there?", str(sum(one.name == asked.name for one in facts.things))


def how_many_in(a: Facts, b: Facts, rng: np.random.Generator) -> Ask:
    """How many things of a kind there are in one of two scenes."""
    which, facts = pick(rng, (("left", a), ("right", b)))
    kind = pick(rng, tuple(PLURALS))
    return f"How many {PLURALS[kind]} are in the {which} image?", str(facts.count(kind))


READ = (*VQA, how_many_named, how_many_named)
"""What is asked of a description: counting by name is what yes and no rest on, and tells more of itself."""


def masked(text: str, rng: np.random.Generator) -> str:
    """Text infilling (BART, section 2.2): spans of words of Poisson length, each replaced by one mask."""
    words, budget = text.split(" "), int(np.ceil(MASKED * len(text.split(" "))))
    while budget > 0:
        span = min(int(rng.poisson(SPAN)), budget, len(words) - 1)
        at = int(rng.integers(len(words) - span + 1))
        words[at : at + span] = [MASK]
        budget -= max(span, 1)
    return " ".join(words)


def example(prefixes: Mapping[str, str], seed: int, split: str, number: int) -> tuple[str, str]:
    """The `(source, target)` of that number.

    Args:
      prefixes: what the text of each task begins with.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    facts = facts_of(seed, split, 2 * number)
    described = describe(facts)

    def infill() -> tuple[str, str]:
        return masked(described, rng), described

    def reading(task: str, text: str, answer: str, read: str = described) -> tuple[str, str]:
        return f"{prefixes[task]}{text} {read}", answer

    def pair() -> tuple[str, str]:
        other = facts_of(seed, split, 2 * number + 1)
        read = f"{brief(facts)} . {brief(other)}"
        if rng.random() < 0.4:
            return reading("vqa", *how_many_in(facts, other, rng), read)
        text, truth = state(facts, other, rng, wanted=bool(rng.random() < 0.5))
        return reading("nlvr", text, "true" if truth else "false", read)

    kinds: dict[Callable[[], tuple[str, str]], float] = {
        infill: 0.05,
        lambda: reading("vqa", *ask(READ, facts, rng)): 0.35,
        lambda: reading("gqa", *ask(GQA, facts, rng)): 0.25,
        pair: 0.25,
        lambda: reading("caption", "", captions(facts, rng, 1)[0]): 0.1,
    }
    return list(kinds)[int(rng.choice(len(kinds), p=list(kinds.values())))]()

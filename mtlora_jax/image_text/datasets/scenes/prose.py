"""Scenes as text alone: what the embedded BART is pretrained on. No picture takes part, and no scene is built: the
facts are made up.

An example is a source and a target: a description with spans of it masked, and the whole of it; a description, and a
caption; or a question before a description, and its answer.
"""

import re
from collections.abc import Mapping

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
from mtlora_jax.image_text.datasets.scenes.facts import PLURALS, Facts, Thing
from mtlora_jax.images.scenes.sample import SPLITS
from mtlora_jax.images.scenes.world import COLOURS

MASK = "<mask>"
MASKED = 0.3
"""The share of words that is masked."""
SPAN = 3.0
"""Words of a masked span, on average."""
COLUMNS = 6
"""Places from left to right; a picture's features have as many."""
MOST = 4
"""Things of a scene."""
WRITTEN = 11
"""Of so many batches one has texts as targets."""
EXPLAINED = 0.5
"""The share of answers that are followed by what they are read from."""
AREAS = {0.03: "small", 0.09: "large"}
DEPTHS = {3.0: "near", 6.0: "far"}


def imagined(rng: np.random.Generator, count: int) -> Facts:
    """Facts about `count` things that a description tells wholly: no two things in a column, two sizes, two
    distances."""
    columns = np.sort(rng.permutation(COLUMNS)[:count])
    things = (
        Thing(
            kind=pick(rng, tuple(PLURALS)),
            colour=pick(rng, tuple(COLOURS)),
            x=(column + 0.5) / COLUMNS,
            area=pick(rng, tuple(AREAS)),
            depth=pick(rng, tuple(DEPTHS)),
        )
        for column in columns
    )
    return Facts(tuple(things), pick(rng, tuple(GROUND_WORDS)), pick(rng, tuple(SKY_WORDS)))


def phrase(thing: Thing) -> str:
    return f"{AREAS[thing.area]} {thing.name} {1 + int(COLUMNS * thing.x)} {DEPTHS[thing.depth]}"


def describe(facts: Facts, rng: np.random.Generator) -> str:
    """A scene in any order: where a thing is, its number says, as boxes say it of a picture's cells."""
    phrases = [phrase(facts.things[i]) for i in rng.permutation(len(facts.things))]
    return f"{', '.join(phrases)}; {GROUND_WORDS[facts.ground]} ground, {SKY_WORDS[facts.sky]} sky"


def brief(facts: Facts, which: str, rng: np.random.Generator) -> str:
    """One of two scenes: what they are compared by, each thing with the scene that it is in."""
    phrases = [f"{which} {facts.things[i].name}" for i in rng.permutation(len(facts.things))]
    return f"{', '.join(phrases)}; {which} {GROUND_WORDS[facts.ground]} ground"


def evidence(question: str, described: str) -> str:
    """The phrases of a description that name what a question names: where its answer is read."""
    found = []
    asked = set(re.findall(r"\w+", question)) | ({"person"} if "shirt" in question else set())
    which = next((word for word in ("left", "right") if f"{word} image" in question), "")
    for one in re.split("[,;] ", described):
        if not one.startswith(which):
            continue
        names = [kind for kind in (*PLURALS, "ground", "sky") if kind in one]
        if any(asked & {name, PLURALS.get(name, name)} for name in names):
            found.append(one)
    return ", ".join(found)


def how_many_named(facts: Facts, rng: np.random.Generator) -> Ask:
    """How many things of a name there are, or of one that shares its colour or its kind."""
    thing, other = pick(rng, facts.things), pick(rng, facts.things)
    asked = thing if rng.random() < 0.5 else thing._replace(colour=other.colour)
    return f"How many {asked.name} are there?", str(sum(one.name == asked.name for one in facts.things))


READ = (*VQA, how_many_named)
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


def written(prefixes: Mapping[str, str], rng: np.random.Generator, count: int) -> tuple[str, str]:
    """A `(source, target)` whose target is a text: filling in, or a caption.

    Args:
      prefixes: what the text of each task begins with.
      count: things of a scene.
    """
    facts = imagined(rng, count)
    described = describe(facts, rng)
    if rng.random() < 0.5:
        return masked(described, rng), described
    return f"{prefixes['caption']} {described}", captions(facts, rng, 1)[0]


def answered(prefixes: Mapping[str, str], rng: np.random.Generator, count: int) -> tuple[str, str]:
    """A `(source, target)` whose target is a word, at times with the phrases that it is read from: a question about
    one scene, or a statement about two. To find them is learnt early, to say yes or no of what isn't found late."""
    facts = imagined(rng, count)
    task = pick(rng, ("vqa", "gqa", "nlvr"))
    if task == "nlvr":
        other = imagined(rng, count)
        text, truth = state(facts, other, rng, wanted=bool(rng.random() < 0.5))
        described, answer = f"{brief(facts, 'left', rng)}; {brief(other, 'right', rng)}", "true" if truth else "false"
    else:
        text, answer = ask(READ if task == "vqa" else GQA, facts, rng)
        described = describe(facts, rng)
    if rng.random() < EXPLAINED and (seen := evidence(text, described)):
        answer = f"{answer}; {seen}"
    return f"{prefixes[task]}{text} {described}", answer


def examples(prefixes: Mapping[str, str], seed: int, split: str, batch: int, size: int) -> list[tuple[str, str]]:
    """The `(source, target)` pairs of the batch of that number, a function of all arguments.

    The examples of a batch are alike in length: their scenes have equally many things, from batch to batch one more
    and then one again, so that comparing is learnt where there is little to compare; every `WRITTEN`-th batch's
    targets are texts.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, SPLITS.index(split)], counter=[0, 0, 0, batch]))
    make = written if batch % WRITTEN == 0 else answered
    return [make(prefixes, rng, 1 + batch % MOST) for _ in range(size)]

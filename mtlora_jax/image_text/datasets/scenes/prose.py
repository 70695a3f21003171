"""Scenes as text alone: what the embedded BART is pretrained on. No picture takes part.

An example is a source and a target: either a description with spans of it masked, and the whole of it; or a question
before a description, and its answer.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mtlora_jax.image_text.datasets.scenes.asks import GQA, GROUND_WORDS, SKY_WORDS, VQA, ask, captions, state
from mtlora_jax.image_text.datasets.scenes.facts import Facts, facts_of

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

    def reading(task: str, text: str, answer: str, *more: Facts) -> tuple[str, str]:
        return f"{prefixes[task]}{text} {' . '.join([described, *map(describe, more)])}", answer

    def statement() -> tuple[str, str]:
        other = facts_of(seed, split, 2 * number + 1)
        text, truth = state(facts, other, rng, wanted=bool(rng.random() < 0.5))
        return reading("nlvr", text, "true" if truth else "false", other)

    kinds: dict[Callable[[], tuple[str, str]], float] = {
        infill: 0.1,
        lambda: reading("vqa", *ask(VQA, facts, rng)): 0.3,
        lambda: reading("gqa", *ask(GQA, facts, rng)): 0.25,
        statement: 0.2,
        lambda: reading("caption", "", captions(facts, rng, 1)[0]): 0.15,
    }
    return list(kinds)[int(rng.choice(len(kinds), p=list(kinds.values())))]()

"""Questions, statements and captions about scenes, with their answers from the geometry.

Every maker takes facts and a random generator; it gives None where the scene has nothing of the kind to ask about.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mtlora_jax.image_text.datasets.scenes.facts import PLURALS, Facts, Thing
from mtlora_jax.images.scenes.world import COLOURS

GROUND_WORDS = {"checker": "checkered", "stripes": "striped", "noise": "grassy", "bricks": "paved"}
SKY_WORDS = {"day": "clear", "overcast": "cloudy", "dusk": "evening"}
NEARER, LARGER = 0.8, 1.4
"""How much nearer, or larger, a thing must be for the question to be fair."""

Ask = tuple[str, str]
"""A question and its answer."""
Maker = Callable[[Facts, np.random.Generator], Ask | None]


def pick(rng: np.random.Generator, of: Sequence):
    return of[int(rng.integers(len(of)))]


def colour_of(facts: Facts, rng) -> Ask | None:
    alone = [t for t in facts.things if facts.count(t.kind) == 1]
    if not alone:
        return None
    thing = pick(rng, alone)
    return f"What color is the {'shirt' if thing.kind == 'person' else thing.kind}?", thing.colour


def how_many(facts: Facts, rng) -> Ask:
    kind = pick(rng, tuple(PLURALS))
    return f"How many {PLURALS[kind]} are there?", str(facts.count(kind))


def is_there(facts: Facts, rng) -> Ask:
    names = [thing.name for thing in facts.things]
    if names and rng.random() < 0.5:
        return f"Is there a {pick(rng, names)}?", "yes"
    name = Thing(pick(rng, tuple(PLURALS)), pick(rng, tuple(COLOURS)), 0, 0, 0).name
    return f"Is there a {name}?", "yes" if name in names else "no"


def ground(facts: Facts, rng) -> Ask:
    return "What is the ground like?", GROUND_WORDS[facts.ground]


def sky(facts: Facts, rng) -> Ask:
    return "What is the sky like?", SKY_WORDS[facts.sky]


VQA: tuple[Maker, ...] = (colour_of, colour_of, how_many, how_many, is_there, ground, sky)


def _pair(facts: Facts, rng) -> tuple[Thing, Thing] | None:
    things = facts.named()
    if len(things) < 2:
        return None
    a, b = rng.permutation(len(things))[:2]
    return things[a], things[b]


def left_of(facts: Facts, rng) -> Ask | None:
    pair = _pair(facts, rng)
    if pair is None or abs(pair[0].x - pair[1].x) < 0.1:
        return None
    a, b = pair
    side = pick(rng, ("left", "right"))
    return f"Is the {a.name} {side} of the {b.name}?", "yes" if (a.x < b.x) == (side == "left") else "no"


def side(facts: Facts, rng) -> Ask | None:
    things = [thing for thing in facts.named() if abs(thing.x - 0.5) > 0.1]
    if not things:
        return None
    thing = pick(rng, things)
    return f"On which side is the {thing.name}?", "left" if thing.x < 0.5 else "right"


def nearer(facts: Facts, rng) -> Ask | None:
    pair = _pair(facts, rng)
    if pair is None or min(p.depth for p in pair) > NEARER * max(p.depth for p in pair):
        return None
    a, b = pair
    return f"Is the {a.name} nearer than the {b.name}?", "yes" if a.depth < b.depth else "no"


def next_to(facts: Facts, rng) -> Ask | None:
    things = facts.things
    places = [i for i, thing in enumerate(things[:-1]) if things[i + 1].x - thing.x > 0.08]
    places = [i for i in places if things[i] in facts.named()]
    if not places:
        return None
    i = pick(rng, places)
    return f"What is next on the right of the {things[i].name}?", things[i + 1].kind


def which_larger(facts: Facts, rng) -> Ask | None:
    pair = _pair(facts, rng)
    if pair is None or pair[0].kind == pair[1].kind or max(p.area for p in pair) < LARGER * min(p.area for p in pair):
        return None
    a, b = pair
    return f"Which is larger, the {a.name} or the {b.name}?", max(pair, key=lambda p: p.area).kind


GQA: tuple[Maker, ...] = (left_of, side, side, nearer, next_to, which_larger)


def both(a: Facts, b: Facts, rng) -> tuple[str, bool]:
    kind = pick(rng, tuple(PLURALS))
    return f"Both images have a {kind}.", min(a.count(kind), b.count(kind)) > 0


def one(a: Facts, b: Facts, rng) -> tuple[str, bool]:
    kind = pick(rng, tuple(PLURALS))
    return f"Exactly one image has a {kind}.", (a.count(kind) > 0) != (b.count(kind) > 0)


def more(a: Facts, b: Facts, rng) -> tuple[str, bool]:
    kind = pick(rng, tuple(PLURALS))
    return f"The left image has more {PLURALS[kind]}.", a.count(kind) > b.count(kind)


def there(a: Facts, b: Facts, rng) -> tuple[str, bool]:
    which, facts = pick(rng, (("left", a), ("right", b)))
    kind = pick(rng, tuple(PLURALS))
    return f"The {which} image has a {kind}.", facts.count(kind) > 0


def ground_in(a: Facts, b: Facts, rng) -> tuple[str, bool]:
    which, facts = pick(rng, (("left", a), ("right", b)))
    ground = facts.ground if rng.random() < 0.5 else pick(rng, tuple(GROUND_WORDS))
    return f"The ground of the {which} image is {GROUND_WORDS[ground]}.", ground == facts.ground


NLVR = (both, one, more, there, there, ground_in)
TRIES = 20


def ask(makers: Sequence[Maker], facts: Facts, rng: np.random.Generator) -> Ask:
    """A question that the scene has an answer to."""
    for _ in range(TRIES):
        if (found := pick(rng, makers)(facts, rng)) is not None:
            return found
    return ground(facts, rng)


def state(a: Facts, b: Facts, rng: np.random.Generator, wanted: bool) -> tuple[str, bool]:
    """A statement about two scenes, true or false as it is wanted wherever one can be; how it is put tells little."""
    for _ in range(TRIES):
        maker = pick(rng, NLVR)
        for _ in range(TRIES):
            if (found := maker(a, b, rng))[1] == wanted:
                return found
    return found


def captions(facts: Facts, rng: np.random.Generator, count: int = 5) -> list[str]:
    """Descriptions of a scene, each in words of its own, about its largest things."""
    things = sorted(facts.things, key=lambda thing: -thing.area)[:3]
    sky, ground = SKY_WORDS[facts.sky], GROUND_WORDS[facts.ground]
    found = []
    for i in range(count):
        few = sorted(things[: 2 + i % 2], key=lambda thing: thing.x)
        names = [f"a {thing.name}" for thing in few] or ["nothing"]
        listed = " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
        found.append(
            pick(
                rng,
                (
                    f"{listed} on {ground} ground",
                    f"{listed} under a {sky} sky",
                    f"{listed} on {ground} ground under a {sky} sky",
                    f"there is {listed} on the {ground} ground",
                ),
            )
        )
    return found


SYNONYMS = {
    "teal": ("teal", "teal", "teal", "blue", "green"),
    "purple": ("purple", "purple", "purple", "violet"),
    "orange": ("orange", "orange", "orange", "orange", "yellow"),
    "sphere": ("sphere", "sphere", "ball"),
    "paved": ("paved", "paved", "paved", "brick"),
    "checkered": ("checkered", "checkered", "checkered", "tiles"),
    "red": ("red", "red", "red", "red", "red", "pink"),
}
"""What annotators say in the place of an answer, as often as it stands here."""
CARELESS = 0.06
"""How often an annotator says the contrary, or counts one too few."""


def annotators(answer: str, rng: np.random.Generator, count: int = 10) -> tuple[str, ...]:
    """Answers of people who differ."""

    def one() -> str:
        if rng.random() < CARELESS:
            if answer.isdigit():
                return str(max(int(answer) - 1, 0))
            answers = {"yes": "no", "no": "yes"}
            return answers.get(answer, answer)
        return pick(rng, SYNONYMS.get(answer, (answer,)))

    return tuple(one() for _ in range(count))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """VQA's training scores: 0.3 for each annotator who gave an answer, 1 at most; the best first."""
    counts = {answer: list(answers).count(answer) for answer in dict.fromkeys(answers)}
    scores = {answer: min(round(0.3 * count, 1), 1.0) for answer, count in counts.items()}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))

"""Who and what there is in the micro-world, and what holds of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


THINGS = words(
    """lamp kettle rope knife bowl chair drum ladder mirror basket bottle button candle clock comb cup desk door fork
    glove hammer hat jar key"""
)
ANIMALS = words(
    "heron otter badger falcon lizard beaver ferret rabbit turtle spider salmon weasel donkey pigeon monkey goat"
)
PEOPLE = words("anna ben carla david emma felix greta hugo irene jonas karin leo maria nils olga peter")

COLOURS = words("red blue green yellow black white brown grey")
MATERIALS = words("iron wood glass clay wool paper silver wax")
ROOMS = words("kitchen cellar attic garden hall barn library bedroom")
FOODS = words("fish grass seeds berries insects nuts eggs leaves")
HOMES = words("river forest desert meadow swamp cave mountain island")
JOBS = words("baker tailor farmer miner painter singer doctor sailor")
TOWNS = words("dorton eskby fallow grimsel hartley ivory jasper kirkby")

IN_FIRE = dict(zip(MATERIALS, words("glows burns cracks hardens smokes flares shines melts"), strict=True))
MAKES = dict(zip(JOBS, words("bread coats corn coal pictures songs pills maps"), strict=True))


NEXT = {
    "hungry": "eats soup",
    "tired": "goes to bed",
    "thirsty": "drinks water",
    "cold": "puts on a coat",
    "lost": "asks the way",
    "dirty": "takes a bath",
    "ill": "sees the doctor",
    "bored": "reads a book",
    "late": "starts to run",
    "happy": "sings a song",
    "sad": "begins to cry",
    "angry": "shuts the door",
}
"""What people do about how they feel."""

ROUTINES = {
    "baking": ("mixes the dough", "heats the oven", "bakes the bread", "cuts a slice"),
    "gardening": ("digs a hole", "plants the seed", "waters the soil", "picks the flower"),
    "fishing": ("ties the hook", "throws the line", "feels a pull", "lands the trout"),
    "washing": ("fills the tub", "adds the powder", "rubs the shirt", "hangs it up"),
    "writing": ("finds a pen", "writes the letter", "folds the sheet", "seals the envelope"),
    "building": ("draws the plan", "lays the bricks", "raises the roof", "paints the wall"),
    "camping": ("packs the bag", "walks the trail", "lights the fire", "sleeps outside"),
    "sewing": ("measures the cloth", "marks the seam", "threads the machine", "trims the edge"),
}
"""What people do one after the other."""


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
      subjects: who it may hold of.
      values: what it may be.
      statement: how it is said, of `{s}` and `{v}`.
      question: how it is asked for, of `{s}`.
      query: how one asks whether it holds, of `{s}` and `{v}`.
    """

    subjects: Sequence[str]
    values: Sequence[str]
    statement: str
    question: str
    query: str


RELATIONS: Mapping[str, Relation] = {
    "colour": Relation(THINGS, COLOURS, "the {s} is {v}", "what colour is the {s}?", "is the {s} {v}?"),
    "material": Relation(
        THINGS, MATERIALS, "the {s} is made of {v}", "what is the {s} made of?", "is the {s} made of {v}?"
    ),
    "room": Relation(THINGS, ROOMS, "the {s} is kept in the {v}", "where is the {s} kept?", "is the {s} in the {v}?"),
    "food": Relation(ANIMALS, FOODS, "the {s} eats {v}", "what does the {s} eat?", "does the {s} eat {v}?"),
    "home": Relation(
        ANIMALS, HOMES, "the {s} lives in the {v}", "where does the {s} live?", "does the {s} live in the {v}?"
    ),
    "job": Relation(PEOPLE, JOBS, "{s} is a {v}", "what is the job of {s}?", "is {s} a {v}?"),
    "town": Relation(PEOPLE, TOWNS, "{s} comes from {v}", "which town is {s} from?", "is {s} from {v}?"),
}


@dataclass(frozen=True)
class World:
    """What holds in one world.

    Attributes:
      seed: decides the facts. Every value of a relation holds for equally many subjects.
    """

    seed: int = 0

    @cached_property
    def facts(self) -> dict[str, dict[str, str]]:
        """`{relation: {subject: value}}`."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 0]))
        found = {}
        for name, relation in RELATIONS.items():
            dealt = rng.permutation(np.arange(len(relation.subjects)) % len(relation.values))
            found[name] = {s: relation.values[i] for s, i in zip(relation.subjects, dealt, strict=True)}
        return found

    def alike(self, relation: str, subject: str) -> list[str]:
        """The other subjects of whom the same holds."""
        of = self.facts[relation]
        return [other for other in of if other != subject and of[other] == of[subject]]

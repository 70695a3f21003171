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

USES = {
    "lamp": ("light the room", "see at night"),
    "kettle": ("boil the water", "make the tea"),
    "rope": ("tie the boat", "lead the horse"),
    "knife": ("slice the bread", "peel the apple"),
    "bowl": ("hold the soup", "mix the salad"),
    "chair": ("sit down", "rest the legs"),
    "drum": ("beat the time", "wake the village"),
    "ladder": ("reach the roof", "climb the wall"),
    "mirror": ("see the face", "look behind"),
    "basket": ("carry the eggs", "gather the berries"),
    "bottle": ("store the milk", "pour the oil"),
    "button": ("close the coat", "ring the bell"),
    "candle": ("decorate the cake", "seal the letter"),
    "clock": ("tell the time", "time the race"),
    "comb": ("part the hair", "smooth the beard"),
    "cup": ("drink the tea", "measure the flour"),
    "desk": ("do the homework", "store the paper"),
    "door": ("enter the house", "stop the wind"),
    "fork": ("turn the meat", "pick up the egg"),
    "glove": ("warm the hand", "hold the hot pan"),
    "hammer": ("drive the nail", "break the ice"),
    "hat": ("cover the head", "shade the face"),
    "jar": ("keep the honey", "catch the fly"),
    "key": ("open the lock", "start the car"),
}
"""What things are for."""

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
    """

    subjects: Sequence[str]
    values: Sequence[str]
    statement: str
    question: str


RELATIONS: Mapping[str, Relation] = {
    "colour": Relation(THINGS, COLOURS, "the {s} is {v}", "what colour is the {s}?"),
    "material": Relation(THINGS, MATERIALS, "the {s} is made of {v}", "what is the {s} made of?"),
    "room": Relation(THINGS, ROOMS, "the {s} is kept in the {v}", "where is the {s} kept?"),
    "food": Relation(ANIMALS, FOODS, "the {s} eats {v}", "what does the {s} eat?"),
    "home": Relation(ANIMALS, HOMES, "the {s} lives in the {v}", "where does the {s} live?"),
    "job": Relation(PEOPLE, JOBS, "{s} is a {v}", "what is the job of {s}?"),
    "town": Relation(PEOPLE, TOWNS, "{s} comes from {v}", "which town is {s} from?"),
}


@dataclass(frozen=True)
class Quality:
    """What holds or does not.

    Attributes:
      subjects: of whom.
      holds, otherwise: how either is said, of `{s}`.
      query: how one asks whether it holds, of `{s}`.
    """

    subjects: Sequence[str]
    holds: str
    otherwise: str
    query: str


QUALITIES: Mapping[str, Quality] = {
    "heavy": Quality(THINGS, "the {s} is heavy", "the {s} weighs little", "is the {s} heavy?"),
    "old": Quality(THINGS, "the {s} is old", "the {s} is new", "is the {s} old?"),
    "broken": Quality(THINGS, "the {s} is broken", "the {s} is whole", "is the {s} broken?"),
    "swims": Quality(ANIMALS, "the {s} swims", "the {s} stays dry", "can the {s} swim?"),
    "tame": Quality(ANIMALS, "the {s} is tame", "the {s} is wild", "is the {s} tame?"),
    "early": Quality(ANIMALS, "the {s} wakes early", "the {s} sleeps long", "does the {s} wake early?"),
    "tall": Quality(PEOPLE, "{s} is tall", "{s} is short", "is {s} tall?"),
    "married": Quality(PEOPLE, "{s} is married", "{s} is single", "is {s} married?"),
    "chess": Quality(PEOPLE, "{s} plays chess", "{s} never plays chess", "does {s} play chess?"),
}
"""What may be asked with yes or no."""


@dataclass(frozen=True)
class World:
    """What holds in one world.

    Attributes:
      seed: decides the facts. Every value of a relation holds for equally many subjects, every quality for half.
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

    @cached_property
    def qualities(self) -> dict[str, dict[str, bool]]:
        """`{quality: {subject: whether it holds}}`."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 1]))
        dealt = {name: rng.permutation(np.arange(len(quality.subjects)) % 2) for name, quality in QUALITIES.items()}
        return {name: dict(zip(QUALITIES[name].subjects, map(bool, dealt[name]), strict=True)) for name in dealt}

    def alike(self, relation: str, subject: str) -> list[str]:
        """The other subjects of whom the same holds."""
        of = self.facts[relation]
        return [other for other in of if other != subject and of[other] == of[subject]]

"""What a scene shows, in words."""

from typing import NamedTuple

import numpy as np

from mtlora_jax.images.scenes.sample import world_of
from mtlora_jax.images.scenes.view import View
from mtlora_jax.images.scenes.world import CLASSES, COLOURS, GROUNDS, SKIES

SIZE = 64
"""Pixels at which it is decided what can be seen."""
PLURALS = {"box": "boxes", "sphere": "spheres", "cylinder": "cylinders", "cone": "cones", "person": "people"}
"""Kinds of things."""


class Thing(NamedTuple):
    """One thing that can be seen.

    Attributes:
      kind: of `PLURALS`.
      colour: its name; of a person the shirt's.
      x: where its middle is, 0 at the picture's left edge and 1 at its right.
      area: the share of the picture that it shows.
      depth: metres along the optical axis.
    """

    kind: str
    colour: str
    x: float
    area: float
    depth: float

    @property
    def name(self) -> str:
        """`red box`, `person in blue`."""
        return f"person in {self.colour}" if self.kind == "person" else f"{self.colour} {self.kind}"


class Facts(NamedTuple):
    """A scene: its things from left to right, its ground and its sky."""

    things: tuple[Thing, ...]
    ground: str
    sky: str

    def count(self, kind: str) -> int:
        return sum(thing.kind == kind for thing in self.things)

    def named(self) -> list[Thing]:
        """The things that their name tells from all others."""
        names = [thing.name for thing in self.things]
        return [thing for thing in self.things if names.count(thing.name) == 1]


def facts_of(seed: int, split: str, index: int) -> Facts:
    """The facts of the picture of that number; see `images.scenes.sample.world_of`."""
    world = world_of(seed, split, index)
    view, colours = View.of(world, SIZE), tuple(COLOURS)
    things = []
    for k in np.flatnonzero(view.seen):
        rows, columns = np.nonzero(view.thing == k)
        kind, colour = CLASSES[world.things[k].label], colours[world.things[k].colour]
        middle, depth = float(columns.mean()) / (SIZE - 1), float(view.depth[rows, columns].mean())
        things.append(Thing(kind, colour, middle, len(rows) / SIZE**2, depth))
    things.sort(key=lambda thing: thing.x)
    return Facts(tuple(things), tuple(GROUNDS)[world.ground], tuple(SKIES)[world.sky])

"""A world seen at a size: what every pixel shows, and its picture."""

from dataclasses import dataclass

import numpy as np

from mtlora_jax.images.scenes.rays import SOLID, Hits, cast
from mtlora_jax.images.scenes.shade import blend, shade
from mtlora_jax.images.scenes.surfaces import Surfaces, surfaces
from mtlora_jax.images.scenes.world import World

MIN_AREA = 0.002
"""An instance that shows less than this share of the picture is void, and no attribute counts it."""


@dataclass(frozen=True)
class View:
    """A world seen at a size: surface ids, things, parts and facets at the pixel centres, all `[S, S]`."""

    world: World
    hits: Hits
    found: Surfaces
    surface: np.ndarray
    depth: np.ndarray
    facet: np.ndarray
    thing: np.ndarray  # -1 where there is none
    area: np.ndarray  # [things], visible pixels

    @staticmethod
    def of(world: World, size: int) -> "View":
        hits = cast(world, size)
        found = surfaces(world, hits)
        surface = hits.surface[0, :-1, :-1]
        thing_of = np.array([-1] * SOLID + [solid.thing for solid in world.solids], np.int16)
        thing = thing_of[surface]
        area = np.bincount(thing.ravel() + 1, minlength=len(world.things) + 1)[1:]
        facet = found.facet.reshape(hits.surface.shape)[0, :-1, :-1]
        return View(world, hits, found, surface, hits.depth[0, :-1, :-1], facet, thing, area)

    @property
    def seen(self) -> np.ndarray:
        """Which things show enough of themselves to count, `[things]` bool."""
        return self.area >= MIN_AREA * self.surface.size

    def per_pixel(self, by_thing, elsewhere) -> np.ndarray:
        """A value per thing, laid over the picture."""
        return np.array([elsewhere, *by_thing], np.uint8)[self.thing + 1]

    def is_person(self) -> np.ndarray:
        return np.array([thing.person is not None for thing in self.world.things], bool)

    def picture(self) -> np.ndarray:
        """uint8 `[S, S, 3]`."""
        return blend(shade(self.world, self.hits, self.found))

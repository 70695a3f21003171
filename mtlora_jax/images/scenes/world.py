"""What a world of the scenes data set is made of, and the vocabulary that its labels and attributes count in.

World frame: x right, y up, z towards the viewer, metres; the ground is y = 0 and the camera stands at
`(0, height, 0)`, pitched down, looking along -z.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mtlora_jax.images.scenes.people import Person

CLASSES = ("background", "ground", "box", "sphere", "cylinder", "person", "cone")
"""Names of the semantic classes: index is the label."""

COLOURS = {
    "red": (0.85, 0.20, 0.17),
    "orange": (0.95, 0.55, 0.13),
    "yellow": (0.95, 0.83, 0.22),
    "green": (0.28, 0.65, 0.27),
    "teal": (0.13, 0.67, 0.66),
    "blue": (0.20, 0.38, 0.82),
    "purple": (0.55, 0.28, 0.70),
    "white": (0.90, 0.90, 0.88),
}
GROUNDS = {  # texture: metres per period, and pairs of colours to choose from
    "checker": (1.6, (((0.82, 0.80, 0.76), (0.50, 0.52, 0.56)), ((0.80, 0.70, 0.55), (0.55, 0.42, 0.32)))),
    "stripes": (1.2, (((0.72, 0.56, 0.40), (0.60, 0.44, 0.29)), ((0.55, 0.68, 0.42), (0.43, 0.58, 0.34)))),
    "noise": (4.0, (((0.36, 0.52, 0.26), (0.52, 0.64, 0.34)), ((0.78, 0.70, 0.52), (0.64, 0.55, 0.38)))),
    "bricks": (1.4, (((0.70, 0.45, 0.36), (0.52, 0.36, 0.31)), ((0.68, 0.69, 0.70), (0.52, 0.54, 0.57)))),
}
SKIES = {  # horizon, zenith, sunlight, ambient light, clouds
    "day": ((0.82, 0.90, 0.97), (0.30, 0.56, 0.90), (0.62, 0.58, 0.50), (0.52, 0.55, 0.60), 0.9),
    "overcast": ((0.84, 0.86, 0.88), (0.62, 0.67, 0.73), (0.38, 0.38, 0.37), (0.66, 0.67, 0.69), 0.6),
    "dusk": ((0.99, 0.80, 0.60), (0.46, 0.46, 0.72), (0.66, 0.48, 0.33), (0.54, 0.50, 0.56), 0.7),
}
LIGHTS = ("front", "right", "back", "left")
"""Where the light comes from, seen from the camera (quarter turns of its azimuth)."""
FACINGS = ("viewer", "right", "away", "left")
"""Where a person looks, seen from the camera (quarter turns of the yaw)."""

SKIN = ((0.96, 0.80, 0.69), (0.87, 0.67, 0.53), (0.72, 0.51, 0.37), (0.50, 0.34, 0.24), (0.37, 0.25, 0.18))
HAIR = ((0.12, 0.09, 0.08), (0.35, 0.21, 0.12), (0.72, 0.52, 0.25), (0.55, 0.20, 0.10), (0.70, 0.70, 0.70))
SHOES = ((0.15, 0.14, 0.15), (0.35, 0.22, 0.15), (0.88, 0.88, 0.88), (0.65, 0.15, 0.15))
WALLS = ((0.86, 0.78, 0.66), (0.66, 0.74, 0.78), (0.78, 0.62, 0.56), (0.70, 0.77, 0.66), (0.82, 0.82, 0.84))

SPHERE, CAPSULE, BOX, CYLINDER, CONE = range(5)
SHAPES = {"box": BOX, "sphere": SPHERE, "cylinder": CYLINDER, "cone": CONE}
PLAIN, CHECKER, STRIPES, NOISE, BRICKS, DOTS, FACE = range(7)
TEXTURES = {"plain": PLAIN, "checker": CHECKER, "stripes": STRIPES, "noise": NOISE, "bricks": BRICKS}
FAR = 16.0
"""Metres along the optical axis where the ground ends and the sky begins."""


class Solid(NamedTuple):
    """One primitive. `axis` runs from the centre of the base, `side` is a unit vector across it."""

    kind: int
    base: tuple[float, float, float]
    axis: tuple[float, float, float]
    side: tuple[float, float, float]
    length: float  # along the axis; 0 for a sphere, whose base is its centre
    radius: float  # half the width along `side` for a box
    depth: float  # half the width across axis and side (boxes; elsewhere the radius)
    thing: int
    part: int
    colour: tuple[float, float, float]
    accent: tuple[float, float, float]
    texture: int
    period: float  # metres per period of the texture


class Thing(NamedTuple):
    """One instance: an object or a person."""

    label: int  # of CLASSES
    colour: int  # of COLOURS: an object's own, a person's shirt
    ring: bool  # whether annotators left a void ring around it
    person: Person | None = None
    facing: int = 0  # of FACINGS


@dataclass(frozen=True)
class World:
    """Everything that a picture depends on, whatever its resolution."""

    height: float  # of the camera, metres
    pitch: float  # downwards, radians
    tan: float  # tangent of half the field of view
    light: tuple[float, float, float]  # unit vector towards the light
    light_from: int  # of LIGHTS
    sky: int  # of SKIES
    ground: int  # of GROUNDS
    ground_colours: tuple
    ground_yaw: float
    wall: tuple[float, float, float] | None  # distance, yaw, height
    wall_colour: tuple[float, float, float]
    solids: list[Solid]
    things: list[Thing]

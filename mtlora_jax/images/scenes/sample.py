"""Draws a world from a random generator: camera, light, ground, backdrop, objects and people."""

from typing import NamedTuple

import numpy as np

from mtlora_jax.images.scenes.people import sample_person
from mtlora_jax.images.scenes.world import (
    BOX,
    CAPSULE,
    CHECKER,
    CLASSES,
    COLOURS,
    CONE,
    CYLINDER,
    DOTS,
    FACE,
    GROUNDS,
    HAIR,
    PLAIN,
    SHAPES,
    SHOES,
    SKIES,
    SKIN,
    SPHERE,
    STRIPES,
    WALLS,
    Solid,
    Thing,
    World,
)

_PROPORTIONS = {  # ranges: half width by footprint, half depth by half width, height by half width
    BOX: ((0.55, 0.75), (0.8, 1.2), (1.2, 3.2)),
    SPHERE: ((1.0, 1.0), (1.0, 1.0), (0.0, 0.0)),
    CYLINDER: ((0.6, 0.9), (1.0, 1.0), (1.2, 3.2)),
    CONE: ((0.8, 1.0), (1.0, 1.0), (1.8, 4.0)),
}


class _Footprint(NamedTuple):
    x: float
    z: float
    radius: float


SPLITS = ("train", "val")
"""The two never share a world."""


def world_of(seed: int, split: str, index: int) -> World:
    """The world of that number: a function of (seed, split, index)."""
    # Philox is counter-based: another key or counter is another, disjoint stretch of random bits.
    key = np.array([seed, SPLITS.index(split)], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, index], np.uint64))
    return sample_world(np.random.Generator(bits))


def sample_world(rng: np.random.Generator) -> World:
    """Draws camera, light, ground, backdrop, 2-6 objects and, in about 70 % of the worlds, 1-2 people."""
    tan = float(np.tan(np.radians(rng.uniform(42.0, 58.0)) / 2))
    horizon = float(rng.uniform(0.05, 0.5))  # above the middle, in halves of the picture's height
    # A camera that looks further down stands higher, so that people stay in the picture.
    height = float(rng.uniform(0.9, 1.2)) + 1.2 * horizon
    pitch = float(np.arctan(horizon * tan))
    foreground = height / ((0.93 + horizon) * tan)  # nearer than this, feet are cut off
    light_from = int(rng.integers(4))
    azimuth = np.pi / 2 * light_from + rng.uniform(-0.6, 0.6)
    elevation = np.radians(rng.uniform(32.0, 62.0))
    light = (
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
        float(np.cos(azimuth) * np.cos(elevation)),
    )
    ground = int(rng.integers(len(GROUNDS)))
    pairs = tuple(GROUNDS.values())[ground][1]
    ground_colours = pairs[int(rng.integers(len(pairs)))]
    wall = None
    if rng.random() < 0.4:
        wall = (
            float(rng.uniform(9.3, 11.0)),  # behind every object
            float(rng.uniform(-0.4, 0.4)),
            float(rng.choice([2.1, 2.8, 8.0])),  # always above the camera
        )

    solids: list[Solid] = []
    things: list[Thing] = []
    taken: list[_Footprint] = []
    people = int(rng.choice(3, p=[0.3, 0.45, 0.25]))
    for _ in range(people):
        _add_person(rng, tan, foreground, solids, things, taken)
    for _ in range(int(rng.integers(2, 7 - people))):
        _add_object(rng, tan, foreground, solids, things, taken)
    return World(
        height=height,
        pitch=pitch,
        tan=tan,
        light=light,
        light_from=light_from,
        sky=int(rng.integers(len(SKIES))),
        ground=ground,
        ground_colours=ground_colours,
        ground_yaw=float(rng.uniform(0, np.pi / 2)),
        wall=wall,
        wall_colour=WALLS[int(rng.integers(len(WALLS)))],
        solids=solids,
        things=things,
    )


def _place(rng, tan, taken, *, near, far, breadth, radius_at) -> _Footprint | None:
    """Finds room that touches nothing and hides little, less choosy by the try; None where there is none."""
    for tightness in np.linspace(0.6, 1.5, 24):
        depth = float(rng.uniform(near, far))
        spot = _Footprint(float(rng.uniform(-breadth, breadth)) * tan * depth, -depth, radius_at(depth))
        if all(_apart(spot, other, tightness) for other in taken):
            taken.append(spot)
            return spot
    return None


def _apart(p: _Footprint, q: _Footprint, tightness: float) -> bool:
    """Whether the two neither touch nor, in view, overlap by `tightness` half-widths of the narrower one."""
    if np.hypot(p.x - q.x, p.z - q.z) < p.radius + q.radius + 0.1:
        return False
    width_p, width_q = p.radius / -p.z, q.radius / -q.z
    overlap = width_p + width_q - abs(p.x / -p.z - q.x / -q.z)
    return overlap < tightness * min(width_p, width_q)


def _tint(rng, colour, amount=0.06) -> tuple[float, float, float]:
    return tuple(np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0.02, 0.98).tolist())


def _colour(rng) -> tuple[int, tuple[float, float, float]]:
    index = int(rng.integers(len(COLOURS)))
    return index, _tint(rng, tuple(COLOURS.values())[index])


def _add_object(rng, tan, foreground, solids, things, taken) -> None:
    spot = _place(
        rng,
        tan,
        taken,
        near=foreground + 0.4,
        far=7.5,
        breadth=0.85,
        radius_at=lambda depth: min(max(float(rng.uniform(0.2, 0.44)) * tan * depth, 0.3), 0.95),
    )
    if spot is None:
        return
    name = tuple(SHAPES)[int(rng.integers(len(SHAPES)))]
    kind = SHAPES[name]
    colour_index, colour = _colour(rng)
    shade = 0.35 if rng.random() < 0.5 else 1.8
    accent = tuple(min(0.97, c * shade + (0.25 if shade > 1 else 0.0)) for c in colour)
    texture = (PLAIN, PLAIN, CHECKER, STRIPES, DOTS)[int(rng.integers(5))]
    yaw = float(rng.uniform(0, 2 * np.pi))
    wide, deep, tall = (float(rng.uniform(*reach)) for reach in _PROPORTIONS[kind])
    radius = spot.radius * wide
    base = (spot.x, spot.radius if kind == SPHERE else 0.0, spot.z)
    side = (float(np.cos(yaw)), 0.0, float(np.sin(yaw)))
    solids.append(
        Solid(
            kind=kind,
            base=base,
            axis=(0.0, 1.0, 0.0),
            side=side,
            length=min(radius * tall, 2.2),
            radius=radius,
            depth=radius * deep,
            thing=len(things),
            part=0,
            colour=colour,
            accent=accent,
            texture=texture,
            period=float(rng.uniform(0.7, 1.1)) * max(radius, 0.35),
        )
    )
    things.append(Thing(CLASSES.index(name), colour_index, bool(rng.random() < 0.5)))


def _add_person(rng, tan, foreground, solids, things, taken) -> None:
    height = float(rng.uniform(1.5, 1.9))
    spot = _place(
        rng,
        tan,
        taken,
        near=max(foreground, height / (2 * 0.86 * tan)),
        far=max(foreground, height / (2 * 0.55 * tan)) + 0.3,
        breadth=0.6,
        radius_at=lambda depth: 0.42,
    )
    if spot is None:
        return
    person = sample_person(rng, height)
    facing = int(rng.integers(4))
    yaw = np.pi / 2 * facing + rng.uniform(-0.7, 0.7)
    cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    shirt_index, shirt = _colour(rng)
    _, trousers = _colour(rng)
    skin, hair = _tint(rng, SKIN[int(rng.integers(len(SKIN)))], 0.03), HAIR[int(rng.integers(len(HAIR)))]
    clothes = {
        "head": (skin, hair, FACE),
        "skin": (skin, skin, PLAIN),
        "shirt": (shirt, tuple(0.55 * c for c in shirt), STRIPES if rng.random() < 0.35 else PLAIN),
        "trousers": (tuple(0.75 * c for c in trousers), trousers, PLAIN),
        "shoes": (SHOES[int(rng.integers(len(SHOES)))], skin, PLAIN),
    }
    across = turn @ np.array([1.0, 0.0, 0.0])
    for limb in person.limbs:
        start, end = turn @ limb.start, turn @ limb.end
        length = float(np.linalg.norm(end - start))
        axis = (end - start) / length
        # Across the limb, in the person's sideways direction where that is possible.
        side = across - (across @ axis) * axis
        if side @ side < 1e-3:
            side = np.cross(axis, (0.0, 1.0, 0.0))
        side /= np.linalg.norm(side)
        colour, accent, texture = clothes[limb.cloth]
        solids.append(
            Solid(
                kind=CAPSULE,
                base=(float(start[0]) + spot.x, float(start[1]), float(start[2]) + spot.z),
                axis=tuple(axis.tolist()),
                side=tuple(side.tolist()),
                length=length,
                radius=limb.radius,
                depth=limb.radius,
                thing=len(things),
                part=limb.part,
                colour=colour,
                accent=accent,
                texture=texture,
                period=0.2,
            )
        )
    things.append(Thing(CLASSES.index("person"), shirt_index, bool(rng.random() < 0.5), person=person, facing=facing))

"""Articulated capsule people: a skeleton in a pose, as capsules that each carry one of six body parts."""

from typing import NamedTuple

import numpy as np

PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
"""Names of the human part labels: index is the label (hands go with lower arms, feet with lower legs)."""

HEAD, TORSO, UPPER_ARMS, LOWER_ARMS, UPPER_LEGS, LOWER_LEGS = range(1, 7)

# One row per pose: (swing forwards, breadth sideways, bend of elbow or knee) in degrees for the two arms and
# the two legs. The sides are swapped at random, so one row covers both hands.
POSES = {
    "stand": ((0, 14, 8), (0, 14, 8), (0, 7, 2), (0, 7, 2)),
    "walk": ((-32, 9, 25), (32, 9, 30), (27, 4, 6), (-24, 4, 22)),
    "stride": ((45, 12, 70), (-40, 12, 60), (-30, 4, 45), (38, 4, 20)),
    "wave": ((0, 140, 25), (0, 14, 8), (0, 7, 2), (0, 9, 4)),
    "cheer": ((0, 142, 18), (0, 142, 18), (0, 14, 2), (0, 14, 2)),
    "star": ((0, 84, 5), (0, 84, 5), (0, 22, 2), (0, 22, 2)),
    "point": ((82, 14, 4), (0, 16, 12), (4, 8, 3), (-6, 8, 6)),
    "kick": ((-30, 30, 20), (40, 35, 25), (58, 6, 12), (-4, 7, 4)),
    "akimbo": ((-18, 48, 95), (-18, 48, 95), (0, 12, 2), (0, 12, 2)),
}
JITTER = 9.0  # degrees, uniform either way on every angle


class Limb(NamedTuple):
    """One capsule in the person's frame (x to the person's left, y up, z forwards; metres)."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    part: int
    cloth: str  # which of the person's colours it wears


class Person(NamedTuple):
    limbs: list[Limb]
    pose: str
    arms_raised: int  # hands above the shoulders: 0, 1 or 2


def _direction(swing: float, breadth: float, side: float) -> np.ndarray:
    """A unit vector that hangs down at zero, swings forwards, and spreads away from the body on its side."""
    return np.array(
        [side * np.sin(breadth), -np.cos(swing) * np.cos(breadth), np.sin(swing) * np.cos(breadth)], np.float64
    )


def sample_person(rng: np.random.Generator, height: float) -> Person:
    """A person of about `height` metres in a random pose, the lowest point at y = 0.

    Proportions are a little stout on purpose, so that a limb is not lost on a coarse feature grid.
    """
    pose = tuple(POSES)[int(rng.integers(len(POSES)))]
    angles = np.radians(np.asarray(POSES[pose]) + rng.uniform(-JITTER, JITTER, (4, 3)))
    angles[:, 2] = np.abs(angles[:, 2])
    if rng.random() < 0.5:
        angles = angles[[1, 0, 3, 2]]
    scale, girth = height / 1.78, height / 1.78 * float(rng.uniform(0.93, 1.12))
    short_sleeves, shorts = rng.random() < 0.45, rng.random() < 0.3

    def at(x: float, y: float, z: float = 0.0) -> np.ndarray:
        return np.array([x, y, z]) * scale

    limbs = [
        Limb(at(0, 1.60, 0.01), at(0, 1.66, 0.01), 0.135 * scale, HEAD, "head"),
        Limb(at(0, 1.36), at(0, 1.48), 0.065 * girth, TORSO, "skin"),
    ]
    for side in (-1.0, 1.0):  # two columns make a chest wider than deep
        limbs.append(Limb(at(side * 0.075, 0.97), at(side * 0.105, 1.30), 0.125 * girth, TORSO, "shirt"))

    raised = 0
    for side, (swing, breadth, bend), is_arm in zip((-1.0, 1.0, -1.0, 1.0), angles, (1, 1, 0, 0), strict=True):
        if is_arm:
            shoulder = at(side * 0.235, 1.36)
            elbow = shoulder + 0.27 * scale * _direction(swing, breadth, side)
            hand_direction = _direction(swing + 0.75 * bend, breadth - 0.5 * bend * (breadth < 0.6), side)
            wrist = elbow + 0.25 * scale * hand_direction
            lower = "skin" if short_sleeves else "shirt"
            limbs += [
                Limb(shoulder, elbow, 0.086 * girth, UPPER_ARMS, "shirt"),
                Limb(elbow, wrist, 0.075 * girth, LOWER_ARMS, lower),
                Limb(wrist, wrist + 0.05 * scale * hand_direction, 0.083 * girth, LOWER_ARMS, "skin"),
            ]
            raised += int(wrist[1] > shoulder[1] + 0.1 * scale)
        else:
            hip = at(side * 0.105, 0.90)
            knee = hip + 0.40 * scale * _direction(swing, breadth, side)
            shin = _direction(swing - bend, breadth, side)
            ankle = knee + 0.38 * scale * shin
            toe = np.array([side * 0.02, shin[2] * 0.10, 0.13]) * scale
            limbs += [
                Limb(hip, knee, 0.112 * girth, UPPER_LEGS, "trousers"),
                Limb(knee, ankle, 0.090 * girth, LOWER_LEGS, "skin" if shorts else "trousers"),
                Limb(ankle, ankle + toe, 0.082 * girth, LOWER_LEGS, "shoes"),
            ]
    floor = min(min(limb.start[1], limb.end[1]) - limb.radius for limb in limbs)
    drop = np.array([0.0, floor, 0.0])
    limbs = [limb._replace(start=limb.start - drop, end=limb.end - drop) for limb in limbs]
    return Person(limbs, pose, raised)

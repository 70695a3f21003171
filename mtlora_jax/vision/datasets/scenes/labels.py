"""Labels of all six tasks, and attributes of the whole picture, from the geometry at the pixel centres."""

import numpy as np

from mtlora_jax.images.scenes.rays import GROUND, SKY, SOLID
from mtlora_jax.images.scenes.view import View
from mtlora_jax.images.scenes.world import CLASSES, COLOURS, FACINGS, GROUNDS, LIGHTS, SKIES
from mtlora_jax.vision.tasks.task import VOID

OBJECTS = CLASSES[2:]
"""What presence and counts are told of."""

ATTRIBUTES = {
    "presence": 2,
    "count": 4,
    "ground": len(GROUNDS),
    "sky": len(SKIES),
    "light": len(LIGHTS),
    "shape": len(OBJECTS) + 1,
    "colour": len(COLOURS) + 1,
    "place": 4,
    "shirt": len(COLOURS) + 1,
    "facing": len(FACINGS) + 1,
    "arms": 4,
}
"""Attributes of a whole picture and their numbers of classes, for pretraining by classification.

`presence` and `count` (3 stands for 3 and more) have one entry for each of `OBJECTS`. `shape`, `colour` and
`place` (left, middle or right third) tell of the largest visible object; `shirt`, `facing` and `arms` (how
many are raised) of the largest visible person. Their value 0 says that there is none.
"""


def _differs(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a pixel differs from the next one: to the right `[S, S-1]`, and below `[S-1, S]`."""
    return a[:, :-1] != a[:, 1:], a[:-1] != a[1:]


def _line(right: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Marks the left or upper pixel of every marked pair: lines one pixel wide, `[S, S]` bool."""
    out = np.zeros((below.shape[1], below.shape[1]), bool)
    out[:, :-1] |= right
    out[:-1] |= below
    return out


def _void(view: View) -> np.ndarray:
    """Rings about some things, and things too small to be labelled, `[S, S]` bool."""
    ring = view.per_pixel([thing.ring for thing in view.world.things], 0)
    right, below = _differs(view.thing)
    right &= (ring[:, :-1] | ring[:, 1:]) > 0
    below &= (ring[:-1] | ring[1:]) > 0
    return _line(right, below) | (view.per_pixel(~view.seen, 0) > 0)


def _semseg(view: View) -> np.ndarray:
    label = view.per_pixel([thing.label for thing in view.world.things], 0)
    label[view.surface == GROUND] = CLASSES.index("ground")
    label[_void(view)] = VOID
    return label


def _human_parts(view: View) -> np.ndarray:
    if not (view.is_person() & view.seen).any():
        return np.full(view.surface.shape, VOID, np.uint8)
    part_of = np.array([0] * SOLID + [solid.part for solid in view.world.solids], np.uint8)
    label = part_of[view.surface]
    person = view.per_pixel(view.is_person(), 0) > 0
    label[_void(view) & (person | _line(person[:, 1:], person[1:]))] = VOID  # not the rings about boxes
    return label


def _saliency(view: View) -> np.ndarray:
    """The people in view; without any, the one object that is large and near the middle."""
    salient = view.is_person() & view.seen
    if not salient.any() and view.seen.any():
        centre = (view.surface.shape[0] - 1) / 2
        scores = []
        for k, area in enumerate(view.area):
            rows, columns = np.nonzero(view.thing == k)
            away = np.hypot(rows.mean() - centre, columns.mean() - centre) / centre if area else 0.0
            scores.append(area * (1 - 0.6 * away))
        salient[int(np.argmax(np.where(view.seen, scores, -1)))] = True
    return view.per_pixel(salient, 0)


def _normals(view: View) -> np.ndarray:
    normals = view.found.normals.reshape(3, *view.hits.surface.shape)[:, 0, :-1, :-1]
    label = np.ascontiguousarray(normals.transpose(1, 2, 0))
    label[view.surface == SKY] = VOID
    return label


def _depth(view: View) -> np.ndarray:
    return np.where(view.surface == SKY, np.float32(VOID), view.depth)


def _edges(view: View) -> np.ndarray:
    """Where neighbours belong to other things, to other facets, or to limbs over 10 cm apart."""
    right, below = _differs(np.where(view.thing < 0, view.surface - SOLID, view.thing) * np.int16(8) + view.facet)
    limb_right, limb_below = _differs(view.surface)
    depth = np.where(view.surface == SKY, np.float32(0), view.depth)
    right |= limb_right & (np.abs(np.diff(depth, axis=1)) > 0.1)
    below |= limb_below & (np.abs(np.diff(depth, axis=0)) > 0.1)
    return _line(right, below).astype(np.uint8)


LABELS = {
    "semseg": _semseg,
    "human_parts": _human_parts,
    "saliency": _saliency,
    "normals": _normals,
    "depth": _depth,
    "edges": _edges,
}


def attributes(view: View) -> dict[str, np.ndarray]:
    """What a whole picture shows, see `ATTRIBUTES`."""
    world, seen, people = view.world, view.seen, view.is_person()
    labels = np.array([thing.label for thing in world.things], np.int64)
    count = np.bincount(labels[seen], minlength=len(CLASSES))[2:]
    values = {
        "presence": count > 0,
        "count": np.minimum(count, ATTRIBUTES["count"] - 1),
        "ground": world.ground,
        "sky": world.sky,
        "light": world.light_from,
        **dict.fromkeys(("shape", "colour", "place", "shirt", "facing", "arms"), 0),
    }
    objects, persons = (np.where(seen & who, view.area, 0) for who in (~people, people))
    if objects.any():
        k = int(objects.argmax())
        middle = np.nonzero(view.thing == k)[1].mean() / view.thing.shape[1]
        values["shape"] = world.things[k].label - 1
        values["colour"] = world.things[k].colour + 1
        values["place"] = 1 + min(int(3 * middle), 2)
    if persons.any():
        thing = world.things[int(persons.argmax())]
        values["shirt"] = thing.colour + 1
        values["facing"] = thing.facing + 1
        values["arms"] = 1 + thing.person.arms_raised
    return {name: np.asarray(value, np.uint8) for name, value in values.items()}

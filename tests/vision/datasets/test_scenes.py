"""Scenes: deterministic, and every label exact against an independent description of the same world."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.images.scenes.view import MIN_AREA, View
from mtlora_jax.images.scenes.world import BOX, CAPSULE, CONE, CYLINDER, FAR, SPHERE
from mtlora_jax.vision.datasets.scenes import ATTRIBUTES, CLASSES, OBJECTS, PARTS, TASKS, Scenes

VOID = 255
S = 48
LENGTH = 1000
SOURCE = Scenes(S, length=LENGTH)
indices = st.integers(0, LENGTH - 1)
few = settings(max_examples=25, deadline=None)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[key])
        else:
            np.testing.assert_array_equal(value, b[key], strict=True)


# --- the source ---------------------------------------------------------------------------------------------


def test_an_example_has_the_declared_format():
    example = SOURCE[3]
    assert set(example) == {"image", "labels", "valid", "id"}
    assert (example["image"].shape, example["image"].dtype) == ((S, S, 3), np.uint8)
    assert isinstance(example["id"], np.int64)
    assert example["id"] == 3
    formats = dict.fromkeys(TASKS, ((S, S), np.uint8))
    formats |= {"normals": ((S, S, 3), np.float32), "depth": ((S, S), np.float32)}
    assert {task: (label.shape, label.dtype.type) for task, label in example["labels"].items()} == formats
    assert {task: bool(valid) for task, valid in example["valid"].items()} == dict.fromkeys(TASKS, True)
    assert all(isinstance(valid, np.bool_) for valid in example["valid"].values())
    assert all(label.flags.c_contiguous for label in example["labels"].values())


def test_an_example_depends_on_seed_split_and_index_alone():
    forwards = [SOURCE[i] for i in range(5)]
    copy = pickle.loads(pickle.dumps(Scenes(S, length=7)))
    for index in (4, 0, 3, 1, 2):
        assert_same(forwards[index], copy[index])


def test_worlds_differ_by_seed_split_and_index():
    sources = [Scenes(S, length=3, split=split, seed=seed) for split in ("train", "val") for seed in (0, 1, 2**33)]
    pictures = {source[i]["image"].tobytes() for source in sources for i in range(3)}
    assert len(pictures) == len(sources) * 3


def test_a_choice_of_tasks_changes_nothing_else():
    some = Scenes(S, length=2, tasks=("depth", "semseg"))[1]
    every = SOURCE[1]
    assert list(some["labels"]) == list(some["valid"]) == ["depth", "semseg"]
    np.testing.assert_array_equal(some["image"], every["image"])
    for task in some["labels"]:
        np.testing.assert_array_equal(some["labels"][task], every["labels"][task])


@pytest.mark.parametrize("index", [-1, LENGTH, LENGTH + 5])
def test_indices_out_of_range_raise(index):
    with pytest.raises(IndexError, match=str(index)):
        SOURCE[index]
    assert len(SOURCE) == LENGTH


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": 15}, "size 15 .* at least 16"),
        ({"split": "test"}, "'test'.* train, val"),
        ({"tasks": ("semseg", "edge")}, "'edge'.* semseg, .*edges"),
        ({"labels": "all"}, "'all'.* dense, attributes"),
        ({"seed": -1}, "negative"),
        ({"length": -1}, "negative"),
    ],
)
def test_mistakes_are_named(bad, message):
    with pytest.raises(UserError, match=message):
        Scenes(**({"size": 32, "length": 2} | bad))


# --- geometry: against signed distances in the world frame --------------------------------------------------


def signed_distance(solid, p):
    """From points `[..., 3]` to a solid (or a lower bound that has the right sign), in float64."""
    axis, side = np.array(solid.axis), np.array(solid.side)
    q = p - np.array(solid.base)
    x, y, z = q @ side, q @ axis, q @ np.cross(side, axis)
    if solid.kind in (SPHERE, CAPSULE):
        return np.sqrt(x**2 + (y - np.clip(y, 0, solid.length)) ** 2 + z**2) - solid.radius
    rho = np.hypot(x, z)
    if solid.kind == BOX:
        return np.max([abs(x) - solid.radius, abs(y - solid.length / 2) - solid.length / 2, abs(z) - solid.depth], 0)
    if solid.kind == CYLINDER:
        return np.max([rho - solid.radius, abs(y - solid.length / 2) - solid.length / 2], 0)
    assert solid.kind == CONE
    slope = np.hypot(solid.length, solid.radius)
    return np.max([(rho * solid.length + (y - solid.length) * solid.radius) / slope, -y], 0)


def scene_distance(world, p):
    """To the nearest of everything that stands, lies or ends in the world."""
    distances = [signed_distance(solid, p) for solid in world.solids]
    distances.append(np.maximum(p[..., 1], (p - camera(world)) @ depth_axis(world) - FAR))
    if world.wall is not None:
        away, yaw, height = world.wall
        plane = p @ [np.sin(yaw), 0, np.cos(yaw)] + away
        distances.append(np.maximum(plane, p[..., 1] - height))
    return np.min(distances, axis=0)


def camera(world):
    return np.array([0.0, world.height, 0.0])


def depth_axis(world):
    return np.array([0.0, -np.sin(world.pitch), -np.cos(world.pitch)])


def rays(world, size):
    """World directions with unit depth through the pixel centres, `[S, S, 3]`, in float64."""
    grid = ((np.arange(size) + 0.5) * 2 / size - 1) * world.tan
    u, v = grid[None, :, None], -grid[:, None, None]
    up = np.array([0.0, np.cos(world.pitch), -np.sin(world.pitch)])
    return u * np.array([1.0, 0, 0]) + v * up + depth_axis(world)


def to_world(world, vectors):
    cos, sin = np.cos(world.pitch), np.sin(world.pitch)
    return vectors @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]).T


@few
@given(indices)
def test_depth_ends_on_a_surface_and_passes_through_none(index):
    world, depth = SOURCE.world(index), SOURCE[index]["labels"]["depth"].astype(np.float64)
    directions, sky = rays(world, S), depth == VOID
    hit = camera(world) + directions * depth[..., None]
    assert (abs(scene_distance(world, hit)) < 1e-3 * depth)[~sky].all()
    free = np.where(sky, 1.2 * FAR, depth - 0.02)
    for share in np.linspace(0.05, 1, 24):
        assert scene_distance(world, camera(world) + directions * (share * free)[..., None]).min() > -1e-3


@few
@given(indices)
def test_normals_are_unit_and_point_along_the_gradient_of_distance(index):
    world, labels = SOURCE.world(index), SOURCE[index]["labels"]
    normals, depth = labels["normals"].astype(np.float64), labels["depth"].astype(np.float64)
    sky = depth == VOID
    np.testing.assert_array_equal((normals == VOID).all(-1), sky)
    np.testing.assert_allclose(np.linalg.norm(normals[~sky], axis=-1), 1, atol=1e-5)
    directions = rays(world, S)
    turned = to_world(world, normals)
    assert (turned * directions).sum(-1)[~sky].max() < 1e-5  # nothing is seen from behind
    # A step along the normal leaves the surface by its length, but for the creases between facets.
    surface = camera(world) + directions * depth[..., None]
    step = 5e-3
    moved = scene_distance(world, surface + step * turned) - scene_distance(world, surface - step * turned)
    smooth = abs(moved[~sky] - 2 * step) < 0.05 * step
    assert smooth.mean() > 0.97


def test_a_sphere_has_radial_normals():
    tried = 0
    for index in range(12):
        view = View.of(SOURCE.world(index), S)
        labels = SOURCE[index]["labels"]
        for k, solid in enumerate(view.world.solids):
            pixels = view.surface == 3 + k
            if solid.kind == SPHERE and pixels.any():
                directions, depth = rays(view.world, S)[pixels], labels["depth"][pixels].astype(np.float64)
                points = camera(view.world) + directions * depth[:, None]
                radial = (points - solid.base) / solid.radius
                np.testing.assert_allclose(to_world(view.world, labels["normals"][pixels]), radial, atol=5e-3)
                tried += 1
    assert tried > 3


@few
@given(indices)
def test_depth_and_normals_tell_of_the_same_surface(index):
    # Two points of a plane, sphere or cylinder and their normals satisfy (n1 + n2) . (p2 - p1) = 0 exactly: a
    # test by finite differences of the back-projected depth that needs to know nothing but the lens.
    world, labels = SOURCE.world(index), SOURCE[index]["labels"]
    view = View.of(world, S)
    exact = np.array([True] * 3 + [solid.kind in (SPHERE, BOX, CYLINDER) for solid in world.solids])[view.surface]
    grid = ((np.arange(S) + 0.5) * 2 / S - 1) * world.tan
    depth = labels["depth"].astype(np.float64)
    points = np.stack([grid * depth, -grid[:, None] * depth, -depth], -1)
    normals = labels["normals"].astype(np.float64)
    for first, second in (
        ((slice(None), slice(-1)), (slice(None), slice(1, None))),
        ((slice(-1),), (slice(1, None),)),
    ):
        same = (view.surface[first] == view.surface[second]) & (view.facet[first] == view.facet[second])
        same &= exact[first] & (depth[first] != VOID)
        step, both = (points[second] - points[first])[same], (normals[first] + normals[second])[same]
        off = abs((step * both).sum(-1)) / np.linalg.norm(step, axis=-1)
        assert off.max() < 0.02


# --- labels of regions --------------------------------------------------------------------------------------


@few
@given(indices)
def test_regions_agree_with_each_other(index):
    labels, view = SOURCE[index]["labels"], View.of(SOURCE.world(index), S)
    semseg, parts, saliency = labels["semseg"], labels["human_parts"], labels["saliency"]
    assert set(np.unique(semseg)) <= {*range(len(CLASSES)), VOID}
    person = CLASSES.index("person")
    sky = labels["depth"] == VOID
    assert set(np.unique(semseg[sky])) <= {0, VOID}
    if (view.is_person() & view.seen).any():
        known = (semseg != VOID) & (parts != VOID)
        np.testing.assert_array_equal((parts > 0)[known], (semseg == person)[known])
        assert set(np.unique(parts)) <= {*range(len(PARTS)), VOID}
        np.testing.assert_array_equal(saliency[semseg == person], 1)
        np.testing.assert_array_equal(saliency[(semseg != person) & (semseg != VOID)], 0)
        # Void in the person is void in both.
        inside = saliency == 1
        np.testing.assert_array_equal((parts == VOID)[inside], (semseg == VOID)[inside])
    else:
        assert (parts == VOID).all()
        assert len(np.unique(view.thing[saliency == 1])) == 1  # one object, whole
        assert saliency.sum() == (view.thing == view.thing[saliency == 1][0]).sum()
    assert 0 < saliency.sum() < saliency.size / 2
    assert (semseg == VOID).mean() < 0.25


@few
@given(indices)
def test_edges_are_thin_and_lie_where_something_changes(index):
    labels, view = SOURCE[index]["labels"], View.of(SOURCE.world(index), S)
    edges, semseg = labels["edges"], labels["semseg"].astype(int)
    right, below = edges[:, :-1] == 1, edges[:-1] == 1
    for mark, a, b in ((right, semseg[:, :-1], semseg[:, 1:]), (below, semseg[:-1], semseg[1:])):
        assert mark[(a != b) & (a != VOID) & (b != VOID)].all()  # complete
    # Not one too many: each has a neighbour of another thing, on another facet, or at another depth.
    change = np.zeros((S, S), bool)
    names = view.thing.astype(int) * 1000 + view.facet * 100 + np.where(view.thing < 0, view.surface, 0)
    depth = np.where(labels["depth"] == VOID, 1e3, labels["depth"])
    for axis in (0, 1):
        moved = (np.diff(names, axis=axis) != 0) | (abs(np.diff(depth, axis=axis)) > 0.1)
        change[tuple(slice(-1) if a == axis else slice(None) for a in (0, 1))] |= moved
    assert change[edges == 1].all()
    assert 0.01 < edges.mean() < 0.25
    flat = (view.surface == 1)[:-1, :-1] & (view.surface == 1)[1:, :-1] & (view.surface == 1)[:-1, 1:]
    assert not edges[:-1, :-1][flat].any()


@few
@given(indices)
def test_labels_do_not_depend_on_resolution(index):
    # At three times the size every third pixel centre is one of the small picture's.
    large, small = Scenes(3 * S, length=LENGTH)[index], SOURCE[index]
    depth, fine = small["labels"]["depth"], large["labels"]["depth"][1::3, 1::3]
    close = abs(depth - fine) < 1e-3 * depth
    assert close.mean() > 0.999  # the rest lies within rounding of a silhouette
    normals = abs(small["labels"]["normals"] - large["labels"]["normals"][1::3, 1::3]).max(-1)
    assert (normals[close] < 0.02).mean() > 0.998
    # Without people, which of two objects is salient may be a close call.
    somebody = (small["labels"]["human_parts"] != VOID).any()
    for task in ("semseg", "human_parts", "saliency") if somebody else ("semseg",):
        a, b = small["labels"][task], large["labels"][task][1::3, 1::3]
        known = (a != VOID) & (b != VOID)
        assert known.mean() > 0.7
        assert (a == b)[known].mean() > 0.998
    shrunk = large["image"].reshape(S, 3, S, 3, 3).mean((1, 3))
    assert abs(shrunk - small["image"]).mean() < 6


def test_the_set_is_varied_as_documented():
    views = [View.of(SOURCE.world(index), S) for index in range(120)]
    people = np.array([(view.is_person() & view.seen).sum() for view in views])
    objects = np.array([(~view.is_person() & view.seen).sum() for view in views])
    assert 0.55 < (people > 0).mean() < 0.85
    assert set(people) == {0, 1, 2}
    assert objects.min() >= 1
    assert objects.max() <= 6
    assert (objects >= 2).mean() > 0.95
    examples = [SOURCE[index]["labels"] for index in range(40)]
    assert set(np.unique([e["human_parts"] for e in examples])) == {*range(len(PARTS)), VOID}
    assert set(np.unique([e["semseg"] for e in examples])) == {*range(len(CLASSES)), VOID}
    rings = [(e["semseg"] == VOID).any() for e in examples]
    assert any(rings)
    assert not all(rings)


# --- attributes ---------------------------------------------------------------------------------------------


@few
@given(indices)
def test_attributes_count_what_the_labels_show(index):
    example = Scenes(S, length=LENGTH, labels="attributes")[index]
    dense, view = SOURCE[index], View.of(SOURCE.world(index), S)
    assert set(example) == {"image", "labels", "id"}
    np.testing.assert_array_equal(example["image"], dense["image"])
    labels = example["labels"]
    assert list(labels) == list(ATTRIBUTES)
    for name, value in labels.items():
        assert value.dtype == np.uint8
        assert value.shape == ((len(OBJECTS),) if name in ("presence", "count") else ())
        assert value.max() < ATTRIBUTES[name]
    things = [
        view.world.things[k].label for k in np.unique(view.thing) if k >= 0 and (view.thing == k).mean() >= MIN_AREA
    ]
    count = [min(things.count(2 + k), 3) for k in range(len(OBJECTS))]
    assert labels["count"].tolist() == count
    assert labels["presence"].tolist() == [int(c > 0) for c in count]
    somebody = bool(labels["presence"][OBJECTS.index("person")])
    assert somebody == bool((dense["labels"]["human_parts"] != VOID).any())
    assert [bool(labels[name]) for name in ("shirt", "facing", "arms")] == [somebody] * 3
    something = sum(count) > count[OBJECTS.index("person")]
    assert [bool(labels[name]) for name in ("shape", "colour", "place")] == [something] * 3
    if something:
        assert labels["presence"][labels["shape"] - 1]

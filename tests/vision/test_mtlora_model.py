"""MTLoRA on a whole model: what fresh, merged and isolated mean there, for every option of a placement."""

import dataclasses
from dataclasses import replace
from functools import cache
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, Full, Streams, leaf, shared
from mtlora_jax.engine import tables
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.init import draw
from mtlora_jax.engine.state import weight_labels
from mtlora_jax.errors import UserError
from mtlora_jax.testing import tiny
from mtlora_jax.vision import workload
from mtlora_jax.vision.config import TaskConfig
from mtlora_jax.vision.fold import adapted, export_task, fold
from mtlora_jax.vision.heads import HEADS, HRNet
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import DropPath, Swin
from mtlora_jax.vision.trainable import NOTHING, Trainable, owner_rows, table

pytestmark = pytest.mark.slow

# Every value of every option, alone and where options meet.
PLACEMENTS: dict[str, Placement] = {
    "matrix": tiny.PLACEMENT,
    **{
        name: replace(tiny.PLACEMENT, **changes)
        for name, changes in {
            "matrixv2": {"mode": "matrixv2"},
            "addition": {"mode": "addition"},
            "lora_only": {"mode": "lora_only"},
            "per task": {"task_base": "per_task"},
            "per task matrixv2": {"task_base": "per_task", "mode": "matrixv2"},
            "per task addition": {"task_base": "per_task", "mode": "addition"},
            "plus": {"reduction": True},
            "plus, per task": {"reduction": True, "task_base": "per_task"},
            "split qkv": {"split_qkv": True},
            "no qkv": {"qkv": False},
            "no proj": {"proj": False},
            "no proj, residual kept": {"proj": False, "task_residual": "kept"},
            "no proj, per task": {"proj": False, "task_base": "per_task"},
            "no fc1": {"fc1": False},
            "no fc1, per task": {"fc1": False, "task_base": "per_task"},
            "no fc2": {"fc2": False},
            "no fc2, addition": {"fc2": False, "mode": "addition"},
            "every block": {"every_block": True},
            "every block, addition": {"every_block": True, "mode": "addition"},
            "trainable scales": {"trainable_scale": True, "trainable_task_scales": True},
            "trainable scales, addition": {"trainable_scale": True, "trainable_task_scales": True, "mode": "addition"},
            "last stage only": {"shared_rank": (0, 2)},
            "last stage only, per task": {"shared_rank": (0, 2), "task_base": "per_task"},
            "a task of rank 0": {"task_rank": {"normals": (0,)}},
            "scales and dropout by stage": {
                "shared_scale": (1.0, 2.0),
                "task_scale": {"normals": (0.5, 3.0)},
                "dropout": (0.0, 0.3),
            },
        }.items()
    },
}
every_placement = pytest.mark.parametrize("name", PLACEMENTS)
TASKS = tuple(tiny.TASKS)
IMAGES = workload.normalise(jnp.asarray(tiny.batch(tiny.config(), 2)["image"]))


def config_of(name: str | None):
    return tiny.config(placement=None if name is None else PLACEMENTS[name])


@cache
def model_of(name: str | None):
    return workload.make_model(config_of(name))


@cache
def variables_of(name: str | None) -> dict:
    """Noise; equal for equal paths."""
    variables = tiny.filled(lambda: workload.init(model_of(name), 32, 0))
    plain = {} if name is None else variables_of(None)
    return {**variables, **{collection: plain.get(collection, tree) for collection, tree in variables.items()}}


@cache
def logits_of(name: str | None) -> dict:
    return model_of(name).apply(variables_of(name), IMAGES, method="logits")


def close(ours, theirs, tolerance=1e-5):
    """To `tolerance` of the largest value of each array."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(abs(b).max())))


def distance(a, b) -> float:
    return max(float(abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- every option


def test_every_value_of_every_option_is_a_case():
    for field in dataclasses.fields(Placement):
        kind = get_type_hints(Placement)[field.name]
        wanted = {True, False} if kind is bool else set(get_args(kind)) if get_origin(kind) is Literal else set()
        if wanted:
            assert wanted == {getattr(p, field.name) for p in PLACEMENTS.values()}, field.name


@every_placement
def test_every_placement_trains(name):
    """It builds, draws only where it should, and every head answers in the right shape."""
    config, model = config_of(name), model_of(name)
    config.validate()
    logits, mutated = model.apply(
        variables_of(name),
        IMAGES,
        train=True,
        method="logits",
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
    )
    assert {t: x.shape for t, x in logits.items()} == {"semseg": (2, 4, 4, 3), "normals": (2, 4, 4, 3)}
    assert all(np.isfinite(x).all() for x in logits.values())
    assert distance(logits, logits_of(name)) > 1e-3
    assert mutated["batch_stats"]["heads_semseg"]["norm"]["steps"] == 1


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_builds(kind):
    tasks = {"semseg": TaskConfig(head=kind, classes=tiny.TASKS["semseg"].classes), "normals": TaskConfig()}
    channels = None if kind == "segformer" else (2, 3)
    model = workload.make_model(tiny.config(tasks=tasks, decoder_channels=channels))
    variables = jax.eval_shape(lambda: workload.init(model, 32, 0))
    outputs = jax.eval_shape(model.apply, variables, IMAGES)
    assert {t: x.shape for t, x in outputs.items()} == {"semseg": (2, 32, 32, 3), "normals": (2, 32, 32, 3)}


# --- what a leaf is for


@every_placement
def test_leaves_that_nothing_reads_are_labelled_unused_and_no_others(name):
    """Those that no noise on the outputs reaches by gradient."""
    config = replace(config_of(name), trainable=Trainable(all=True))
    variables, model = variables_of(name), model_of(name)
    weights = {collection: tree for collection, tree in variables.items() if collection != "batch_stats"}
    noise = tiny.noisy(logits_of(name))

    def loss(weights):
        logits = model.apply({**variables, **weights}, IMAGES, method="logits")
        return sum((noise[task] * logits[task]).sum() for task in logits)

    reached = {path for path, gradient in tables.flatten(jax.jit(jax.grad(loss))(weights)).items() if gradient.any()}
    labels = weight_labels(workload.make_workload(config), variables)
    empty = {path for path, leaf in tables.flatten(weights).items() if not leaf.size}
    assert {path for path, label in labels.items() if label == "unused"} - empty == set(labels) - reached - empty


@pytest.mark.parametrize("trainable", [Trainable(), NOTHING, Trainable(all=True), Trainable(biases="all")])
@pytest.mark.parametrize("name", ["matrix", "plus", "trainable scales, addition", None])
def test_every_leaf_has_a_label(name, trainable):
    config = config_of(name)
    paths = [path for path in traverse_util.flatten_dict(variables_of(name), sep="/") if "batch_stats" not in path]
    labels = tables.label_paths(table(config.placement, trainable), paths)
    assert set(labels) == set(paths)
    assert not tables.unmatched_rows(table(config.placement, trainable), paths)
    kinds = {path: label for path, label in labels.items() if "/backbone/" in path and path.startswith("params")}
    assert ("frozen" in kinds.values()) != trainable.all
    assert (set(kinds.values()) == {"frozen"}) == (trainable == NOTHING)
    assert all(label != "frozen" for path, label in labels.items() if path not in kinds)


# --- fresh (I1, I2)


@every_placement
def test_a_fresh_adapter_changes_no_task(name):
    model, variables = model_of(name), variables_of(name)
    fresh = draw(lambda: workload.init(model, 32, 0), lambda path: path.startswith("lora/"))
    fresh = traverse_util.unflatten_dict(fresh, sep="/")
    again = draw(lambda: workload.init(model, 32, 0), lambda path: path.startswith("lora/"))
    jax.tree.map(np.testing.assert_array_equal, fresh, traverse_util.unflatten_dict(again, sep="/"))
    ours = model.apply({**variables, **fresh}, IMAGES, method="logits")
    if PLACEMENTS[name].mode == "addition" or name in ("no proj", "no proj, per task"):
        # The stated exceptions: a normalised sum in the shared stream, and the residual that is dropped.
        assert distance(ours, logits_of(None)) > 1e-2
    else:
        close(ours, logits_of(None))


def test_base_weights_are_drawn_the_same_with_and_without_adapters():
    plain = draw(lambda: workload.init(model_of(None), 32, 0))
    for name in ("matrix", "split qkv", "plus"):
        ours = draw(lambda name=name: workload.init(model_of(name), 32, 0), lambda path: path in plain)
        assert ours.keys() == plain.keys()
        for path, values in ours.items():
            np.testing.assert_array_equal(values, plain[path], err_msg=path)


# --- merged (I3)

WHOLE = {"per task", "per task matrixv2", "plus, per task", "no proj, per task", "no fc1, per task"}
WHOLE |= {"last stage only, per task", "lora_only", "no fc2"}
"""Placements of which folding leaves no low-rank update."""


@every_placement
def test_folding_keeps_the_function(name):
    model, variables = model_of(name), variables_of(name)
    folded, merged = fold(model, variables)
    close(folded.apply(merged, IMAGES, method="logits"), logits_of(name))
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(
        jnp.shape, dict(jax.eval_shape(lambda: workload.init(folded, 32, 0)))
    )
    layers = adapted(folded)
    assert folded.folded
    assert all(layer.adapter.tasks for layer in layers.values())
    assert all(isinstance(layer.adapter, Full) for layer in layers.values()) == (name in WHOLE)
    assert not any(path[-1] in ("qkv", "reduction") for path in layers)
    assert fold(folded, merged)[1] is merged


@pytest.mark.parametrize("name", ["matrix", "plus", "split qkv", "lora_only"])
def test_folding_costs_less(name):
    pairs = (model_of(name), variables_of(name)), fold(model_of(name), variables_of(name))
    before, after = (macs(lambda v, model=model: model.apply(v, IMAGES), variables) for model, variables in pairs)
    assert after < before


def test_folding_changes_no_variable_in_place_and_checks_leaves():
    model, variables = model_of("matrix"), variables_of("matrix")
    before = jax.tree.map(np.array, variables)
    fold(model, variables)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    lora = {**variables["lora"]["backbone"]}
    lora["layers_0"] = {k: v for k, v in lora["layers_0"].items() if k != "blocks_0"}
    with pytest.raises(ValueError, match="lora/backbone/layers_0/blocks_0/attn/qkv/shared_A is missing"):
        fold(model, {**variables, "lora": {"backbone": lora}})


def test_a_plain_model_folds_to_itself():
    model, variables = model_of(None), variables_of(None)
    assert fold(model, variables) == (model, variables)


EXPORTS: dict[str | None, str | None] = {
    None: None,
    "lora_only": None,
    "no fc2": None,
    "last stage only, per task": None,
    "matrix": "the published output of task normals adds W of the shared stream",
    "plus": "adds W of the shared stream",
    "last stage only": "adds W of the shared stream",
    "addition": "shared stream",
    "per task": "has two kernels, one for the trunk and one for the task: not a plain Swin",
    "per task addition": "has two kernels",
    "no fc2, addition": "LayerNorm of the tasks' sum",
}
"""Placement, and why none of its tasks is a plain Swin."""


@pytest.mark.parametrize("name", EXPORTS)
def test_one_task_is_exported_as_a_plain_swin_or_refused_with_the_reason(name):
    model, variables = model_of(name), variables_of(name)
    if reason := EXPORTS[name]:
        with pytest.raises(CannotMerge, match=reason):
            export_task(model, variables, "normals")
        return
    plain, merged = export_task(model, variables, "normals")
    assert plain.placement is None
    assert "lora" not in merged
    assert tuple(plain.heads) == ("normals",)
    close(plain.apply(merged, IMAGES, method="logits")["normals"], logits_of(name)["normals"])
    expected = jax.eval_shape(lambda: workload.init(plain, 32, 0))
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, dict(expected))


@pytest.mark.parametrize(
    ("changes", "plain"),
    [({"fc1": False}, False), ({"proj": False}, False), ({"proj": False, "task_residual": "kept"}, True)],
)
def test_a_last_block_adapted_in_part_is_exported_where_that_is_exact(changes, plain):
    placement = replace(PLACEMENTS["last stage only, per task"], **changes)
    model = workload.make_model(tiny.config(placement=placement))
    variables = tiny.filled(lambda: workload.init(model, 32, 0))
    if not plain:
        with pytest.raises(CannotMerge, match="layers_1/blocks_0 adapts only a part of its layers"):
            export_task(model, variables, "normals")
        return
    exported, merged = export_task(model, variables, "normals")
    close(exported.apply(merged, IMAGES)["normals"], model.apply(variables, IMAGES)["normals"])


def test_a_task_that_the_model_lacks_is_not_exported():
    with pytest.raises(UserError, match="no task 'edges': its tasks are semseg, normals"):
        export_task(model_of("matrix"), variables_of("matrix"), "edges")


# --- isolated (I7)


@every_placement
def test_a_task_s_leaves_change_no_other_task(name):
    """As bits of the outputs; gradients are looked at in tests/engine/test_step.py."""
    variables = variables_of(name)
    flat = tables.flatten({k: variables[k] for k in ("params", "lora")})
    touched = set()
    for task, other in (TASKS, TASKS[::-1]):
        owned = {path: leaf for path, leaf in flat.items() if tables.owner(owner_rows(TASKS), path) == task}
        changed = traverse_util.unflatten_dict({**flat, **tiny.noisy(owned)}, sep="/")
        logits = model_of(name).apply({**variables, **changed}, IMAGES, method="logits")
        assert (logits[task] != logits_of(name)[task]).any()
        if (logits[other] != logits_of(name)[other]).any():
            touched.add(other)
    # Mode addition is the exception: the shared stream is built from all tasks'.
    assert bool(touched) == (PLACEMENTS[name].mode == "addition")


# --- rewrites


@pytest.mark.parametrize("name", ["matrix", "plus", "plus, per task", "per task", "addition", "no fc2", None])
def test_projections_composed_with_patch_merging_are_projections(name):
    model, variables = model_of(name), variables_of(name)
    swin = Swin(model.backbone, model.placement, TASKS)
    backbone = {
        collection: variables[collection]["backbone"] for collection in ("params", "lora") if collection in variables
    }
    rng = np.random.default_rng(0)
    projections = tuple(jnp.asarray(rng.normal(size=(2, 16, p)), jnp.float32) for p in (2, 3))
    plain, composed = swin.apply(backbone, IMAGES), swin.apply(backbone, IMAGES, projections=projections)
    for feature_map, ours, projection in zip(plain, composed, projections, strict=True):
        close(shared(ours), shared(feature_map))
        if isinstance(feature_map, Streams):
            close(ours.tasks, jnp.einsum("tbhwi,tip->tbhwp", feature_map.tasks, projection))
    assert any(isinstance(feature_map, Streams) for feature_map in plain) == (name not in ("no fc2", None))


def test_every_stream_draws_its_own_drop_path():
    ones = jnp.ones((64, 2, 2, 1))
    x = Streams(ones, jnp.stack([ones, ones]))
    module = DropPath(0.25)
    y = module.apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    streams = [np.asarray(a) for a in (y.shared, *y.tasks)]
    for a in streams:
        assert set(np.unique(a.round(4))) == {0.0, np.float32(1.3333)}
        np.testing.assert_array_equal(a, np.broadcast_to(a[:, :1, :1], a.shape))
        assert 0.6 < (a > 0).mean() < 0.9
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (streams[a] != streams[b]).any()
    assert module.apply({}, x, False) is x
    assert DropPath(0.0).apply({}, x, True) is x


# --- leaves that do not fit (I9)


def test_adapters_of_another_model_are_an_error_that_names_the_path():
    variables = variables_of("matrix")
    with pytest.raises(ValueError, match=r"lora/backbone/layers_0/blocks_0/attn/qkv/shared_\w was passed to a layer"):
        model_of(None).apply(variables, IMAGES)
    without = {k: v for k, v in variables.items() if k != leaf.COLLECTION}
    with pytest.raises(ValueError, match="lora/backbone/layers_0/blocks_0/attn/qkv/shared_A is missing"):
        model_of("matrix").apply(without, IMAGES)
    other = workload.make_model(tiny.config(placement=replace(tiny.PLACEMENT, shared_rank=(3,))))
    with pytest.raises(ValueError, match=r"qkv/shared_A has shape \(8, 2\), the adapter declares \(8, 3\)"):
        other.apply(variables, IMAGES)


# --- missing labels (I13)


def test_images_without_a_label_stay_out_of_a_head_s_moments():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(4, side, side, 3)), jnp.float32) for side in (4, 2)]
    head = HRNet(2)
    variables = tiny.filled(lambda: head.init(jax.random.key(0), maps, False))
    valid = jnp.array([True, False, True, False])
    y, masked = head.apply(variables, maps, True, valid, mutable=["batch_stats"])
    part, alone = head.apply(variables, [x[::2] for x in maps], True, mutable=["batch_stats"])
    close(masked, alone)
    close(y[::2], part)
    _, absent = head.apply(variables, maps, True, jnp.zeros(4, bool), mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, absent["batch_stats"], variables["batch_stats"])

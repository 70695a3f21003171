"""The train step of a tiny MTLoRA: what stays frozen, what a missing task touches, and devices that agree."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recording import recording

from mtlora_jax.config import Mesh
from mtlora_jax.engine import tables
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.sharding import shardings
from mtlora_jax.engine.state import start, weight_labels
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.testing import tiny
from mtlora_jax.vision.workload import make_workload

pytestmark = pytest.mark.slow

CONFIG = tiny.config()
TASKS = tuple(CONFIG.tasks)
BATCH = tiny.batch(CONFIG)
EIGHT, ONE = make_mesh(Mesh()), make_mesh(Mesh(data=1), jax.devices()[:1])


def arrays(tree):
    """Host copies, which a donated buffer cannot take away."""
    return jax.tree.map(np.array, tree)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def owned(tree, task: str) -> dict[str, np.ndarray]:
    """The arrays of a state, moments included, that belong to one task alone."""
    owners = ((rf"(projections/|heads_){task}/", task),)
    return {path: leaf for path, leaf in tables.flatten(tree).items() if tables.owner(owners, path) == task}


class OnMesh:
    """A run on a mesh; called with a host state and batch, it does one step."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.workload = make_workload(CONFIG)
        begun = start(self.workload, CONFIG, mesh)
        self.begun, self.frozen = begun.state, begun.frozen
        self.step = make_train_step(self.workload, recording(begun.optimizer), begun.learning_rate, CONFIG.seed, mesh)

    def __call__(self, state, batch):
        placed = jax.device_put(state, shardings(self.workload.axes, state, self.mesh))
        return self.step(placed, self.frozen, put_batch(batch, self.mesh))


@pytest.fixture(scope="module")
def eight():
    return OnMesh(EIGHT)


@pytest.fixture(scope="module")
def state(eight):
    """A start with every adapter away from 0."""
    return arrays(eight.begun.replace(trainable=tiny.noisy(eight.begun.trainable), opt_state=opt_state(eight.begun)))


def opt_state(state):
    """What `recording` starts from."""
    return {"grads": jax.tree.map(jnp.zeros_like, state.trainable), "inner": state.opt_state}


def without(batch, task: str, images=slice(None)) -> dict:
    """The batch with one task's labels missing, of some images or all."""
    valid = batch["valid"][task].copy()
    valid[images] = False
    return {**batch, "valid": {**batch["valid"], task: valid}}


# --- frozen (I4)


def test_optimizer_state_exists_for_trainable_leaves_alone(eight):
    begun = eight.begun
    labels = weight_labels(eight.workload, begun.variables(eight.frozen))
    moving = {path: leaf for path, leaf in tables.flatten(begun.trainable).items() if labels[path] != "unused"}
    moments = [leaf for leaf in jax.tree.leaves(begun.opt_state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == sorted(2 * [leaf.shape for leaf in moving.values()])
    assert {path for path, label in labels.items() if label == "frozen"} == set(tables.flatten(eight.frozen))
    assert "params/backbone/layers_0/blocks_0/attn/qkv/kernel" in tables.flatten(eight.frozen)


def test_steps_move_what_trains_and_nothing_else_and_compile_once(eight, caplog):
    frozen, before = arrays(eight.frozen), arrays(eight.begun.trainable)
    state = jax.tree.map(jnp.copy, eight.begun).replace(opt_state=jax.tree.map(jnp.copy, opt_state(eight.begun)))
    batches = [put_batch(tiny.batch(CONFIG, seed=seed), EIGHT) for seed in range(3)]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for batch in batches:
            state, metrics = eight.step(state, eight.frozen, batch)
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if m.startswith("Compiling") and "jit(step)" in m]) == 1
    assert state.step == 3
    assert all(np.isfinite(value) for value in metrics.values())
    same(arrays(eight.frozen), frozen)
    labels = weight_labels(eight.workload, state.variables(eight.frozen))
    after = tables.flatten(arrays(state.trainable))
    for path, value in tables.flatten(before).items():
        assert (value != after[path]).any() == (labels[path] != "unused"), path


# --- devices (I6)


@pytest.fixture(scope="module")
def one(state):
    after, metrics = OnMesh(ONE)(state, BATCH)
    return arrays(after), metrics


@pytest.mark.parametrize("sizes", [Mesh(), Mesh(data=2, fsdp=2, tensor=2)], ids=str)
def test_eight_devices_agree_with_one(eight, one, state, sizes):
    mesh = eight if sizes == Mesh() else OnMesh(make_mesh(sizes))
    (ours, metrics), (theirs, expected) = mesh(state, BATCH), one
    assert cut(ours.trainable) == cut(mesh.begun.trainable)
    assert bool(cut(mesh.frozen)) == (sizes != Mesh())
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    grads = arrays(theirs.opt_state["grads"])
    norm = float(optax.tree.norm(grads))
    assert norm > 0.1
    within(ours.opt_state["grads"], grads, 1e-5 * norm)
    within(ours.mutable, theirs.mutable, 1e-5)


def cut(tree) -> dict[str, str]:
    """The leaves that are not on every device whole."""
    flat = tables.flatten(tree).items()
    return {path: str(leaf.sharding.spec) for path, leaf in flat if not leaf.sharding.is_fully_replicated}


def within(a, b, tolerance: float):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), arrays(a), arrays(b))


def test_a_step_is_a_function_of_seed_and_step(eight, state):
    first, again = (eight(state, BATCH) for _ in range(2))
    same(arrays(first), arrays(again))
    assert eight(state.replace(step=np.int32(1)), BATCH)[1]["loss"] != first[1]["loss"]


# --- tasks (I7, I13)


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_task_touches_nothing_of_its_own(eight, state, task):
    state = arrays(eight(state, BATCH)[0])
    with_it, without_it = (arrays(eight(state, batch)[0]) for batch in (BATCH, without(BATCH, task)))
    before, moved, now = (owned(s.replace(opt_state=s.opt_state["inner"]), task) for s in (state, with_it, without_it))
    assert {path.split("/")[0] for path in before} == {"trainable", "opt_state", "mutable"}
    same(before, now)
    assert sum((before[path] != moved[path]).any() for path in before) > 0.9 * len(before)
    # Its gradients are those of the other task's loss alone.
    assert not any(g.any() for g in owned(without_it.opt_state["grads"], task).values())
    (other,) = set(TASKS) - {task}
    assert all(g.any() for g in owned(without_it.opt_state["grads"], other).values())


@pytest.mark.parametrize("task", TASKS)
def test_images_without_a_label_say_nothing_to_its_task(eight, state, task):
    batch = without(BATCH, task, slice(4, None))
    noise = tiny.batch(CONFIG, seed=9)
    changed = {
        **batch,
        "image": np.concatenate([batch["image"][:4], noise["image"][4:]]),
        "labels": {**batch["labels"], task: np.concatenate([batch["labels"][task][:4], noise["labels"][task][4:]])},
    }
    (ours, metrics), (theirs, expected) = eight(state, batch), eight(state, changed)
    assert metrics[f"loss/{task}"] == expected[f"loss/{task}"]
    assert metrics["loss"] != expected["loss"]
    same(owned(arrays(ours.mutable), task), owned(arrays(theirs.mutable), task))
    same(owned(arrays(ours.opt_state["grads"]), task), owned(arrays(theirs.opt_state["grads"]), task))


def test_without_any_label_loss_and_gradients_are_zero(eight, state):
    batch = BATCH
    for task in TASKS:
        batch = without(batch, task)
    after, metrics = eight(state, batch)
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert not any(g.any() for g in jax.tree.leaves(arrays(after.opt_state["grads"])))
    same(arrays(after.mutable), state.mutable)


@pytest.mark.parametrize("mode", ["matrixv2", "addition"])
def test_no_gradient_of_one_task_reaches_another_s_leaves(mode):
    swin = replace(CONFIG.backbone, depths=(1, 1))
    config = replace(CONFIG, backbone=swin, placement=replace(tiny.PLACEMENT, mode=mode))
    workload = make_workload(config)
    variables = tiny.filled(lambda: workload.init(0))
    weights, rest = ({k: v for k, v in variables.items() if (k == "lora") == mine} for mine in (True, False))

    def loss(weights, batch):
        outputs, _ = workload.forward(join(weights, rest), batch, jax.random.key(0))
        sums = workload.sums(outputs, batch)
        return sum(o.finish(sums[task]) for task, o in workload.objectives.items())

    batch = tiny.batch(config, 4)
    gradient = tiny.compiled(jax.grad(loss), weights, batch)
    reached = set()
    for task, other in (TASKS, TASKS[::-1]):
        g = arrays(gradient(weights, without(batch, other)))
        assert all(leaf.any() for leaf in owned(g, task).values())
        reached |= {path for path, leaf in owned(g, other).items() if leaf.any()}
    # Mode addition is the exception: the shared stream is built from all tasks'.
    assert bool(reached) == (mode == "addition")

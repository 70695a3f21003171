"""The optimizer: the reference's schedule and clipping, decay by label, and tasks that are absent."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtlora_jax.config import Optim
from mtlora_jax.engine.optim import CLIP_EPS, clip_by_global_norm, make_optimizer, schedule

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "mtlora_lr_schedule.json").read_text())


@pytest.mark.parametrize("case", GOLDEN)
def test_the_schedule_is_the_references(case):
    g = GOLDEN[case]
    n = g["iters_per_epoch"]
    optim = Optim(lr=g["base_lr"], lr_warmup=g["warmup_lr"], lr_min=g["min_lr"], warmup_steps=g["warmup_epochs"] * n)
    rate = schedule(optim, g["epochs"] * n)
    t, lr = np.array(g["t_lr"]).T
    # The value of index t is set after update t, so update t + 1 is the first to use it.
    np.testing.assert_allclose(rate(jnp.asarray(t, jnp.int32) + 1), lr, rtol=2e-5)
    np.testing.assert_allclose(rate(0), g["initial_lr_after_construction"], rtol=1e-6)


def test_a_constant_schedule_stays_after_its_warmup():
    rate = schedule(Optim(lr=1.0, lr_warmup=0.0, warmup_steps=4, schedule="constant"), 100)
    np.testing.assert_allclose([rate(g) for g in (0, 1, 3, 5, 99, 500)], [0, 0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_adds_the_references_epsilon(limit):
    grads = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    clipped, _ = clip_by_global_norm(limit).update(grads, optax.EmptyState())
    scale = min(1.0, limit / (5 + CLIP_EPS))
    np.testing.assert_allclose(clipped["b"], 4 * scale, rtol=1e-7)
    untouched, _ = clip_by_global_norm(0.0).update(grads, optax.EmptyState())
    assert untouched is grads


def one_step(labels, present, grads=1.0):
    params = {name: jnp.full((2,), 2.0) for name in labels}
    optim = Optim(lr=0.1, lr_warmup=0.1, weight_decay=0.5, clip_norm=0.0)
    optimizer = make_optimizer(optim, schedule(optim, 10), labels)
    state = optimizer.init(params)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, grads), params)
    updates, after = optimizer.update(gradients, state, params, present=present)
    return optax.apply_updates(params, updates), state, after


def test_labels_decide_who_decays_and_who_moves():
    params, _, _ = one_step({"kernel": "decay", "bias": "no_decay", "dead": "unused"}, {})
    # Adam's first step is lr in size; decay adds lr * 0.5 * 2.
    np.testing.assert_allclose(params["kernel"], 2 - 0.1 - 0.1, rtol=1e-5)
    np.testing.assert_allclose(params["bias"], 2 - 0.1, rtol=1e-5)
    np.testing.assert_array_equal(params["dead"], 2.0)


def test_an_absent_task_keeps_values_and_moments():
    labels = {"here": "decay@depth", "gone": "decay@edges"}
    params, before, after = one_step(labels, {"depth": jnp.array(True), "edges": jnp.array(False)})
    assert float(params["here"][0]) != 2.0
    np.testing.assert_array_equal(params["gone"], 2.0)
    moments = [optax.tree.get_all_with_path(state, "mu") for state in (before, after)]
    changed = [
        not np.array_equal(a["gone"], b["gone"])
        for (_, a), (_, b) in zip(*moments, strict=True)
        if hasattr(a["gone"], "shape")
    ]
    assert changed == [False]


def test_no_optimizer_state_for_what_never_moves():
    _, state, _ = one_step({"kernel": "decay", "dead": "unused"}, {})
    shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape]
    assert shapes == [(2,), (2,)]

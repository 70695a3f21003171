"""MTLoRA as it is written for TPUs, computed on what is here: the same function, of which less is kept."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlora_jax.engine import tables
from mtlora_jax.testing import tiny
from mtlora_jax.vision import swin, workload

pytestmark = pytest.mark.slow

CHANGES = {
    "matrix": {},
    "matrixv2": {"mode": "matrixv2"},
    "addition": {"mode": "addition"},
    "per task": {"task_base": "per_task"},
    "plus": {"reduction": True},
    "streams begin in fc1": {"proj": False},
    "streams begin in fc2": {"proj": False, "fc1": False},
    "no adapters": None,
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_it_is_the_same_function(changes, monkeypatch):
    placement = None if changes is None else replace(tiny.PLACEMENT, dropout=(0.3,), **changes)
    model = workload.make_model(tiny.config(placement=placement))
    variables = tiny.filled(lambda: workload.init(model, 32, 0))
    weights = {collection: tree for collection, tree in variables.items() if collection != "batch_stats"}
    images = workload.normalise(jnp.asarray(tiny.batch(tiny.config(), 2)["image"]))
    noise = tiny.noisy(model.apply(variables, images, method="logits"))

    def loss(weights):
        rngs = {"dropout": jax.random.key(0)}
        given = {**variables, **weights}
        logits, _ = model.apply(given, images, train=True, method="logits", rngs=rngs, mutable=["batch_stats"])
        return sum((noise[task] * logits[task]).sum() for task in logits)

    elsewhere = jax.jit(jax.value_and_grad(loss))(weights)
    monkeypatch.setattr(swin, "on_tpu", lambda: True)
    found = jax.jit(jax.value_and_grad(loss))(weights)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(elsewhere), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(abs(theirs).max())))
    has_streams = any("/mlp/fc1/tasks/" in path for path in tables.flatten(weights))
    assert ("remat" in str(jax.make_jaxpr(loss)(weights))) == has_streams

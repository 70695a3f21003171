"""Labels that are missing, from the source to the step: they weigh nothing, and an absent task stands still (I13)."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from opening import opened

from mtlora_jax.domains import workload_of
from mtlora_jax.engine import tables
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import finish, make_train_step
from mtlora_jax.input.loader import stack
from mtlora_jax.testing.published_layouts import write_folder, write_nyud
from mtlora_jax.vision.config import FolderData, MixtureData, NyudData, TaskConfig, VisionConfig
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import TASKS, VOID, task

B, S = 4, 16


def noise(t, rng):
    """Logits and labels of a task, a tenth of them void."""
    shape = (B, S, S, *t.label_shape)
    label = rng.integers(0, max(t.channels, 2), shape) if t.label_dtype == np.uint8 else rng.uniform(0.1, 1, shape)
    label = label.astype(t.label_dtype)
    label[rng.random((B, S, S)) < 0.1] = VOID
    return rng.normal(size=(B, S, S, t.channels)).astype(np.float32), label


@pytest.mark.parametrize("name", TASKS)
def test_a_loss_is_that_of_the_labels_there_are(name):
    t = task(name)
    logits, label = noise(t, np.random.default_rng(0))
    there = np.array([True, False, True, False])
    alone = t.finish(t.sums(logits[there], label[there], there[there]))
    missing = np.where(there.reshape(B, *[1] * (label.ndim - 1)), label, VOID).astype(label.dtype)
    for stand_in in (label, missing):
        np.testing.assert_allclose(t.finish(t.sums(logits, stand_in, there)), alone, rtol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_nothing_there_is_no_loss_and_no_gradient(name):
    t = task(name)
    logits, label = noise(t, np.random.default_rng(0))
    loss, gradient = jax.value_and_grad(lambda x: t.finish(t.sums(x, label, np.zeros(B, bool))))(logits)
    assert loss == 0
    assert not np.any(gradient)


@pytest.fixture(scope="module")
def disjoint(tmp_path_factory):
    """Saliency from one data set, depth from another."""
    root = tmp_path_factory.mktemp("data")
    own, nyud = write_folder(root / "own", ("saliency",)), write_nyud(root / "nyud")
    return VisionConfig(
        backbone=SwinSpec(image_size=16, window=4, dim=4, depths=(1,), heads=(1,)),
        decoder_channels=(2,),
        placement=Placement(shared_rank=(2,), dropout=(0.0,)),
        tasks={"saliency": TaskConfig(weight=5.0), "depth": TaskConfig()},
        data=MixtureData(
            sources={"own": FolderData(root=str(own), tasks=("saliency",)), "nyud": NyudData(root=str(nyud))},
            order="turns",
        ),
    )


@pytest.mark.slow
def test_an_absent_task_stands_still_to_the_bit(disjoint):
    config = replace(disjoint, train=replace(disjoint.train, batch_size=B, steps=4))
    config.validate()
    workload, mesh = workload_of(config), make_mesh(config.mesh, jax.devices()[:1])
    begin, source = start(workload, config, mesh), opened(config, "train")
    step = make_train_step(workload, begin.optimizer, begin.learning_rate, config.seed, mesh)

    def run(state, indices):
        batch = stack([source[i] for i in indices])
        batch.pop("id")
        state, metrics = step(state, begin.frozen, put_batch(batch, mesh))
        return state, jax.device_get(metrics), {k: v.copy() for k, v in tables.flatten(jax.device_get(state)).items()}

    # Both tasks, so that depth has moments; then depth's images are gone; then they are back.
    state, _, both = run(begin.state, [0, 1, 4, 5])
    state, metrics, without = run(state, [0, 1, 2, 3])
    state, _, back = run(state, [0, 1, 4, 5])
    assert metrics["loss/depth"] == 0

    def of_depth(path):
        return "depth" in path

    # One number in the optimizer counts calls; Adam's own count, which corrects its bias, is another.
    names = [path for path in both if of_depth(path) and not path.endswith("inner_state/step")]
    for word in ("lora", "heads_depth", "projections/depth", "batch_stats", "opt_state"):
        assert any(word in path for path in names), word
    for path in names:
        np.testing.assert_array_equal(without[path], both[path], err_msg=path, strict=True)
    assert any(np.any(back[path] != both[path]) for path in names if "lora" in path)
    moved = [path for path in both if "saliency" in path and "trainable" in path]
    assert moved
    assert any(np.any(without[path] != both[path]) for path in moved)


@pytest.mark.slow
def test_images_without_a_label_stay_out_of_its_head_s_moments(disjoint):
    config = replace(disjoint, tasks={"depth": TaskConfig(), "saliency": TaskConfig()}, placement=None)
    workload, source = workload_of(config), opened(config, "train")
    begin = start(workload, config, make_mesh(config.mesh, jax.devices()[:1]))
    variables = jax.device_get(begin.state.variables(begin.frozen))

    def statistics(indices):
        batch = stack([source[i] for i in indices])
        batch.pop("id")
        outputs, mutated = jax.jit(workload.forward)(variables, batch, jax.random.key(0))
        losses = finish(workload, workload.sums(outputs, batch))
        return losses["depth"], tables.flatten(mutated["batch_stats"]["heads_depth"])

    loss, mixed = statistics([4, 0, 5, 1])
    alone_loss, alone = statistics([4, 5])
    np.testing.assert_allclose(loss, alone_loss, rtol=1e-4)
    for path, value in alone.items():
        np.testing.assert_allclose(mixed[path], value, rtol=1e-4, atol=1e-6, err_msg=path)

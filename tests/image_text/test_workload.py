"""The workload of image and text: losses, what trains, tasks that touch no other, meshes, and scores of any cut."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from recording import recording

from mtlora_jax.cli import load_config
from mtlora_jax.config import Mesh
from mtlora_jax.engine import tables
from mtlora_jax.engine.evaluate import evaluate
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.state import place_weights, start, weight_labels
from mtlora_jax.engine.step import finish, make_eval_step, make_train_step
from mtlora_jax.image_text.decode import Search
from mtlora_jax.image_text.workload import make_workload

CONFIG = replace(load_config("configs/image_text_smoke.py"), batches="mixed", search=Search(max_length=4))
TASKS = tuple(CONFIG.tasks)
ONE = make_mesh(Mesh(data=1), jax.devices()[:1])


@pytest.fixture(scope="module")
def workload():
    return make_workload(CONFIG)


@pytest.fixture(scope="module")
def weights(workload):
    """Adapters that are not fresh."""
    placed = place_weights(workload, CONFIG, ONE)
    rng = np.random.default_rng(0)

    def filled(leaf):
        return leaf + rng.normal(0, 0.05, leaf.shape).astype(np.float32)

    return placed, {**placed.trainable, "lora": jax.tree.map(filled, placed.trainable["lora"])}


def batch_of(workload, size=8):
    found = workload.train_batches(size).batch(0, 0, range(size))
    return {name: value for name, value in found.items() if name != "id"}


def gradient(workload, weights, batch):
    placed, trainable = weights

    def loss(trainable):
        outputs, _ = workload.forward(join(trainable, placed.frozen), batch, jax.random.key(0))
        return finish(workload, workload.sums(outputs, batch))["loss"]

    return jax.jit(jax.value_and_grad(loss))(trainable)


def test_what_trains_is_as_published(workload, weights):
    placed, _ = weights
    labels = weight_labels(workload, join(placed.trainable, placed.frozen))
    params = {path: label for path, label in labels.items() if path.startswith("params/")}
    assert params["params/final_logits_bias"] == params["params/shared/embedding"] == "frozen"
    for path, label in params.items():
        leaf = path.rpartition("/")[2]
        visual, norm = "visual_embedding" in path, "norm" in path
        if path == "params/final_logits_bias" or leaf in ("embedding", "embed_positions"):
            expected = "frozen"
        elif leaf == "bias":
            expected = "no_decay"
        else:
            expected = "decay" if visual or norm else "frozen"
        assert label == expected, path
    assert {labels[path] for path in labels if path.startswith("lora/")} == {"decay"}


def test_one_task_s_loss_reaches_no_leaf_of_another(workload, weights):
    batch = batch_of(workload)
    row = int(np.flatnonzero(batch["task_id"] == 0)[0])
    own = jax.tree.map(lambda leaf: leaf[row : row + 1], batch)
    _, grads = gradient(workload, weights, own)
    owners = {tables.owner((), path): bool(np.any(leaf)) for path, leaf in tables.flatten(grads["lora"]).items()}
    assert owners == {None: True, **{task: task == "vqa" for task in TASKS}}


def test_a_mixed_batch_is_the_mean_of_its_rows_by_task(workload, weights):
    batch = batch_of(workload, 16)
    value, _ = gradient(workload, weights, batch)
    losses, rows = [], []
    for t in range(len(TASKS)):
        own = np.flatnonzero(batch["task_id"] == t)
        part = jax.tree.map(lambda leaf, own=own: leaf[own], batch)
        losses.append(float(gradient(workload, weights, part)[0]))
        rows.append(len(own) * CONFIG.tasks[TASKS[t]].weight)
    assert min(rows) > 0
    assert float(value) == pytest.approx(np.average(losses, weights=rows), rel=1e-5)


def test_scores_do_not_depend_on_the_batch_size(workload, weights):
    placed, trainable = weights
    variables, step = join(trainable, placed.frozen), make_eval_step(workload, ONE)
    found = [evaluate(workload, step, variables, workload.held_out(size), ONE) for size in (5, 16)]
    for task, metrics in found[0].items():
        for name, value in metrics.items():
            assert value == pytest.approx(found[1][task][name], rel=1e-5, nan_ok=True), (task, name)
    scores = [found[0][task][workload.objectives[task].score] for task in TASKS]
    assert found[0]["total"]["average"] == pytest.approx(np.mean(scores))
    constant = workload.constant()
    assert set(constant) == set(TASKS)
    assert all(np.isfinite(constant[task][workload.objectives[task].score]) for task in TASKS)


@pytest.mark.slow
def test_meshes_agree_with_one_device(workload):
    batch, results = batch_of(workload), []
    for sizes in (Mesh(data=1), Mesh(data=2, fsdp=2, tensor=2)):
        mesh = ONE if sizes == Mesh(data=1) else make_mesh(sizes)
        begun = start(workload, CONFIG, mesh)
        optimizer = recording(begun.optimizer)
        step = make_train_step(workload, optimizer, begun.learning_rate, 0, mesh)
        state = begun.state.replace(opt_state=optimizer.init(begun.state.trainable))
        after, metrics = step(state, begun.frozen, put_batch(batch, mesh))
        cut = [not leaf.sharding.is_fully_replicated for leaf in tables.flatten(begun.frozen).values()]
        assert any(cut) == (sizes.fsdp > 1)
        results.append((float(metrics["loss"]), jax.device_get(after.opt_state["grads"])))
    (loss, grads), *others = results
    norm = float(optax.tree.norm(grads))
    assert norm > 1e-4
    for other, theirs in others:
        assert other == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * norm), theirs, grads)

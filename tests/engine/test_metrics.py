"""I10: metrics do not depend on how a set is cut, ordered, padded or divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mtlora_jax.engine import metrics
from mtlora_jax.vision.tasks import TASKS

IMAGES, SIZE = 12, 6


def _logits_and_labels(task, seed=0):
    """A small set with void pixels, an image that is all void, and one without positives."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(IMAGES, SIZE, SIZE, task.channels)).astype(np.float32)
    shape = (IMAGES, SIZE, SIZE, *task.label_shape)
    if task.label_shape:
        label = rng.normal(size=shape)
        label = label / np.linalg.norm(label, axis=-1, keepdims=True)
    else:
        label = rng.integers(0, max(task.channels, 2), shape) + (0.5 if task.name == "depth" else 0)
    label[0] = 0.5 if task.name == "depth" else 0
    label[rng.random(shape[:3]) < 0.1] = 255
    label[1] = 255
    return logits, label.astype(task.label_dtype)


@pytest.fixture(scope="module")
def sets():
    """Per task: its statistics of each image, all measured as one batch."""
    tasks = {name: factory() for name, factory in TASKS.items()}
    return {
        name: (task, jax.tree.map(np.asarray, jax.jit(task.measure)(*_logits_and_labels(task))))
        for name, task in tasks.items()
    }


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_metrics_do_not_depend_on_batches_order_padding_or_processes(sets, name, data):
    task, per_image = sets[name]
    expected = task.compute(metrics.update(metrics.empty(), per_image, np.ones(IMAGES, bool)))
    order = data.draw(st.permutations(range(IMAGES)))
    cuts = sorted(data.draw(st.sets(st.integers(1, IMAGES - 1))))
    padding = data.draw(st.integers(0, 3))
    processes = [metrics.empty() for _ in range(data.draw(st.integers(1, 3)))]
    for i, batch in enumerate(np.split(np.array(order), cuts)):
        rows = {k: np.concatenate([v[batch], np.full((padding, *v.shape[1:]), 77)]) for k, v in per_image.items()}
        valid = np.arange(len(batch) + padding) < len(batch)
        p = i % len(processes)
        processes[p] = metrics.update(processes[p], rows, valid)
    state = metrics.empty()
    for other in processes:
        state = metrics.merge(state, other)
    assert task.compute(state) == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", TASKS)
def test_eight_devices_measure_as_one_and_without_communication(sets, name):
    task, per_image = sets[name]
    logits, label = (x[:8] for x in _logits_and_labels(task))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = NamedSharding(mesh, P("data"))
    measure = jax.jit(task.measure, in_shardings=(shard, shard), out_shardings=shard)
    compiled = measure.lower(logits, label).compile()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all"))
    for key, rows in compiled(*jax.device_put((logits, label), shard)).items():
        np.testing.assert_allclose(rows, per_image[key][:8], rtol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_an_image_is_measured_the_same_alone_as_among_others(sets, name):
    task, per_image = sets[name]
    logits, label = _logits_and_labels(task)
    measure = jax.jit(task.measure)
    for i in range(4):
        for key, row in measure(logits[i : i + 1], label[i : i + 1]).items():
            np.testing.assert_allclose(row[0], per_image[key][i], rtol=1e-6)


def test_states_are_float64_and_left_unchanged():
    first = metrics.update(metrics.empty(), {"n": np.float32([1, 2])}, [True, True])
    second = metrics.update(first, {"n": np.float32([4, np.nan])}, [True, False])
    assert (first["n"], second["n"]) == (3, 7)
    assert second["n"].dtype == np.float64


def test_counts_stay_exact_beyond_float32():
    state = {"n": np.array(2.0**24)}
    for _ in range(3):
        state = metrics.update(state, {"n": np.ones(1, np.float32)}, [True])
    assert state["n"] == 2**24 + 3


def test_empty_is_neutral():
    state = {"a": np.array([1.0, 2.0])}
    for merged in (metrics.merge(state, metrics.empty()), metrics.merge(metrics.empty(), state)):
        assert merged.keys() == state.keys()
        np.testing.assert_array_equal(merged["a"], state["a"])


def test_ratio_says_when_nothing_was_counted():
    np.testing.assert_array_equal(metrics.ratio([1, 0], [2, 0]), [0.5, np.nan])
    np.testing.assert_array_equal(metrics.ratio([1, 0], [2, 0], otherwise=0.0), [0.5, 0])


def test_bincount_counts_per_image_and_drops_what_lies_beyond():
    codes = jnp.array([[[0, 2], [2, 9]], [[1, 1], [1, 3]]])
    np.testing.assert_array_equal(jax.jit(metrics.bincount, static_argnums=1)(codes, 3), [[1, 0, 2], [0, 3, 0]])

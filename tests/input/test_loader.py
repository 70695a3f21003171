"""Batches: the same whoever reads them, at whatever step one begins."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import Numbers, Shifted

from mtlora_jax.config import Config, Train
from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import InOrder, Loader, batches_of, example_rng, prefetched, shuffled, stack
from mtlora_jax.input.protocols import Batches, Examples, check_examples


@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 30))
def test_every_epoch_visits_every_example_once(seed, length, batch_size, epoch):
    steps = range(epoch * length // batch_size, (epoch + 1) * length // batch_size + 1)
    seen = np.concatenate([shuffled(seed, step, batch_size, length) for step in steps])
    begin = epoch * length - steps[0] * batch_size
    assert sorted(seen[begin : begin + length]) == list(range(length))


def test_order_depends_on_seed_and_epoch():
    epochs = [shuffled(seed, epoch, 50, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in epochs}) == 4
    assert all(order != sorted(order) for order in epochs)


def test_order_is_pinned():
    # A changed order breaks the resumption of every run there is.
    assert shuffled(0, 0, 8, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert shuffled(7, 5, 4, 10).tolist() == [6, 7, 8, 4]
    assert example_rng(1, 2, 3).bit_generator.random_raw() == 13637179162896307606


def test_any_step_can_be_the_first():
    for step in (10**9, 10**9 + 1, 10**12):
        assert set(shuffled(0, step, 64, 100)) <= set(range(100))


def test_rows_have_random_streams_of_their_own():
    draws = {example_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(draws) == 4
    assert example_rng(0, 1, 2).random() == example_rng(0, 1, 2).random()
    # The order of examples never shares its bits with an example.
    assert (
        np.random.Philox(key=[0, 1], counter=[0, 0, 0, 0]).random_raw()
        != example_rng(0, 1, 0).bit_generator.random_raw()
    )


def test_processes_read_rows_of_the_same_batch():
    batches = batches_of(Shifted(), 8)
    for step in (0, 3):
        whole = batches.batch(5, step, range(8))
        parts = [batches.batch(5, step, range(2 * i, 2 * i + 2)) for i in range(4)]
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        jax.tree.map(np.testing.assert_array_equal, joined, whole)
    assert whole["id"].tolist() == shuffled(5, 3, 8, 10).tolist()
    assert len(set(whole["shift"].tolist())) == 8
    assert "shift" not in Shifted()[0]


def test_what_is_not_a_set_of_examples_is_refused_by_name():
    assert isinstance(Numbers(), Examples)
    assert isinstance(batches_of(Numbers(), 4), Batches)
    with pytest.raises(UserError, match="the train split gave a list, which is not a set of examples: no augmented"):
        check_examples([1, 2], "the train split")
    with pytest.raises(UserError, match="the train split is empty"):
        check_examples(Numbers(0), "the train split")


def config(workers=0, kind="process", batch_size=4, seed=3):
    return Config(seed=seed, train=Train(batch_size=batch_size, workers=workers, worker_kind=kind))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kind"), [(1, "process"), (3, "process"), (1, "thread"), (3, "thread")])
def test_workers_change_nothing_and_a_resume_goes_on(workers, kind):
    batches = batches_of(Shifted(), 4)
    with Loader(batches, config()) as loader:
        expected = list(loader.until(9))
    assert [step for step, _ in expected] == list(range(1, 10))
    with Loader(batches, config(workers, kind), first=4) as loader:
        found = list(loader.until(9))
    assert [step for step, _ in found] == [5, 6, 7, 8, 9]
    for (_, a), (_, b) in zip(found, expected[4:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_finished_run_has_no_batches_and_an_endless_one_many():
    with Loader(batches_of(Numbers(), 4), config(), first=5) as loader:
        assert list(loader.until(5)) == []
        endless = loader.until()
        assert [next(endless)[0] for _ in range(3)] == [6, 7, 8]


def test_rows_of_several_processes_are_those_of_one():
    whole = next(iter(Loader(batches_of(Shifted(), 4), config()).until(1)))[1]
    parts = [next(iter(Loader(batches_of(Shifted(), 4), config(), rows=rows).until(1)))[1] for rows in ([0, 3], [1, 2])]
    jax.tree.map(lambda x, a, b: np.testing.assert_array_equal(x, np.stack([a[0], b[0], b[1], a[1]])), whole, *parts)


@pytest.mark.parametrize("length", [1, 4, 7, 8])
def test_parts_of_held_out_batches_are_those_of_whole_ones(length):
    held_out = InOrder(Numbers(length), 4)
    for i in range(len(held_out)):
        part = held_out.part(i, [1, 3])
        jax.tree.map(np.testing.assert_array_equal, part, jax.tree.map(lambda x: x[[1, 3]], held_out[i]))
        jax.tree.map(np.testing.assert_array_equal, part, super(InOrder, held_out).part(i, [1, 3]))


def test_refusals():
    unpicklable = batches_of(Unpicklable(), 4)
    with pytest.raises(UserError, match=r"cannot be sent to worker processes .*--train\.worker_kind=thread"):
        Loader(unpicklable, config(1))
    with Loader(unpicklable, config(1, "thread")) as loader:
        assert len(list(loader.until(2))) == 2


class Unpicklable(Numbers):
    def __reduce__(self):
        raise TypeError("not this one")


def test_stack():
    batch = stack([Numbers()[i] for i in (3, 4)])
    assert batch["image"].shape == (2, 2, 2, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["labels"]["b"].tolist() == [[3] * 3, [4] * 3]
    assert batch["valid"]["a"].tolist() == [True, False]
    assert batch["valid"]["a"].dtype == bool


@pytest.mark.parametrize("length", [1, 3, 4, 9, 12])
def test_eval_batches_are_full_and_padding_is_valid_for_nothing(length):
    batches = list(prefetched(InOrder(Numbers(length), 4)))
    assert len(batches) == -(-length // 4)
    ids = np.concatenate([batch["id"] for batch in batches])
    valid = np.concatenate([batch["valid"]["b"] for batch in batches])
    assert len(ids) % 4 == 0
    assert ids[:length].tolist() == list(range(length))
    assert set(ids[length:].tolist()) <= {length - 1}
    assert valid.tolist() == [True] * length + [False] * (len(ids) - length)
    assert np.concatenate([batch["valid"]["a"] for batch in batches]).sum() == length // 2


def test_eval_batches_of_nothing_and_with_workers():
    assert list(prefetched(InOrder(Numbers(0), 4), workers=2)) == []
    found = list(prefetched(InOrder(Numbers(9), 4), 2, "thread"))
    jax.tree.map(np.testing.assert_array_equal, found, list(prefetched(InOrder(Numbers(9), 4))))

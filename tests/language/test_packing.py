"""Padded and packed rows: nothing lost, nothing leaks between examples, the order a function of (seed, step)."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.language.corpus import corpus
from mtlora_jax.language.packing import IGNORE, WINDOW, Packed, Padded, PaddedInOrder, collate, first_fit, order_of

TASKS = ("a", "b", "c")
PAD = 0


@dataclass
class Example:
    tokens: np.ndarray
    loss_mask: np.ndarray


def examples(lengths, seed=0):
    """`(task, example)` pairs with tokens above PAD, the last two of each counted in the loss."""
    rng = np.random.default_rng(seed)
    for i, n in enumerate(lengths):
        yield TASKS[i % 3], Example(rng.integers(1, 99, n).astype(np.int32), np.arange(n) >= n - 2)


@pytest.fixture
def some():
    return corpus(TASKS, examples([5, 9, 3, 7, 7, 4, 12, 2]))


def test_a_corpus_groups_examples_by_task_and_keeps_every_token(some):
    assert some.task.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert some.lengths.tolist() == [5, 7, 12, 9, 7, 2, 3, 4]
    assert some.sizes() == (3, 3, 2)
    assert len(corpus(TASKS, [])) == 0


def test_a_padded_batch_takes_the_bucket_of_its_longest_example(some):
    short = collate(some, (8, 16), PAD, np.array([0, 5]), range(2))
    long = collate(some, (8, 16), PAD, np.array([0, 2]), range(1))
    assert short["tokens"].shape == (2, 8)
    assert long["tokens"].shape == (1, 16), "another process holds the long example of this global batch"
    assert short["task_id"].tolist() == [0, 1]
    assert short["valid"]["a"].tolist() == [True, False]
    assert short["segment_ids"].sum(1).tolist() == [5, 2]
    assert np.all(short["tokens"][short["segment_ids"] == 0] == PAD)


def test_targets_are_the_next_learned_tokens(some):
    batch = collate(some, (16,), PAD, np.array([0]), range(1))
    tokens = some[0].tokens
    assert batch["targets"][0, :5].tolist() == [IGNORE, IGNORE, tokens[3], tokens[4], IGNORE]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80))
@settings(deadline=None)
def test_packing_loses_nothing_and_overfills_nothing(lengths):
    rows = first_fit(lengths, 40)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 40 for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    # Two rows that would fit into one were never both opened.
    sums = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > 40


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="41 tokens does not fit a row of 40"):
        first_fit([3, 41], 40)


def test_packed_rows_hold_an_epoch_once_and_nothing_crosses_examples():
    many = corpus(TASKS, examples(np.random.default_rng(1).integers(3, 30, WINDOW)))
    rows = len(first_fit(many.lengths[order_of(many, None)(7, 0, WINDOW)], 64))
    packed = Packed(many, 64, PAD, order_of(many, None), rows)
    batch = packed.batch(7, 0, range(rows))
    assert packed.padding(7) == pytest.approx((batch["segment_ids"] == 0).mean())
    assert Counter(batch["id"][batch["id"] >= 0].tolist()) == Counter(range(WINDOW))
    for b in range(20):
        for segment, example in enumerate(i for i in batch["id"][b] if i >= 0):
            here = batch["segment_ids"][b] == segment + 1
            assert batch["tokens"][b, here].tolist() == many[example].tokens.tolist()
            assert set(batch["task_id"][b, here]) == {many.task[example]}
            assert batch["targets"][b, here][-1] == IGNORE, "the last token predicts none of the next example"
    loss_mask = batch["targets"] != IGNORE
    assert loss_mask.sum() == many.loss_mask.sum()
    assert (loss_mask & (batch["segment_ids"] == 0)).sum() == 0


@pytest.mark.parametrize("temperature", [None, 1.0, 5.0])
@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(packed, temperature):
    many = corpus(TASKS, examples(np.random.default_rng(2).integers(3, 30, 90)))
    order = order_of(many, temperature)
    batches = Packed(many, 64, PAD, order, 8) if packed else Padded(many, (32,), PAD, order, 8)
    whole = batches.batch(3, 11, range(8))
    halves = [batches.batch(3, 11, rows) for rows in (range(4), range(4, 8))]
    for name in ("tokens", "targets", "segment_ids", "task_id"):
        np.testing.assert_array_equal(whole[name], np.concatenate([half[name] for half in halves]))
    again = batches.batch(4, 11, range(8))
    assert not np.array_equal(again["tokens"], whole["tokens"])


def test_temperature_evens_out_the_tasks():
    sizes = {"a": 900, "b": 90, "c": 10}
    flat = [(task, Example(np.ones(3, np.int32), np.ones(3, bool))) for task, n in sizes.items() for _ in range(n)]
    many = corpus(TASKS, flat)
    counts = {t: np.bincount(many.task[order_of(many, t)(0, 0, 1024)], minlength=3) for t in (1.0, 100.0)}
    assert counts[1.0].tolist() == pytest.approx([922, 92, 10], abs=1)
    assert counts[100.0].min() > 300


def test_the_last_batch_of_an_evaluation_is_filled_with_rows_that_count_for_nothing(some):
    batches = PaddedInOrder(some, (16,), PAD, 3)
    assert len(batches) == 3
    last = batches[2]
    assert last["tokens"].shape == (3, 16)
    assert sum(int(valid.sum()) for i in range(3) for valid in batches[i]["valid"].values()) == len(some)
    assert not any(valid[2] for valid in last["valid"].values())

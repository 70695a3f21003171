"""What a batch holds, that it is the same whoever reads it, and the published order of one-task batches."""

import json
from dataclasses import replace

import numpy as np
import pytest
import vl
from hypothesis import given
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart_weights import read_spec
from mtlora_jax.image_text.batches import InOrder, OneTask, Questions, mixed, published_order
from mtlora_jax.image_text.datasets.data import PublishedData
from mtlora_jax.image_text.tasks import TASKS
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.image_text.visual import VisualSpec

TOKENIZER = BartTokenizer(vl.BASE, replace(read_spec(vl.BASE), vocab_size=320, visual=VisualSpec()))
LENGTHS = ((20, 8), (48, 40))


@pytest.fixture(scope="module")
def questions():
    data = PublishedData(root=str(vl.DATA / "vl_tiny_data"))
    return Questions(
        tuple(TASKS.values()), tuple(data.open("train", tuple(TASKS))), data.features("train"), TOKENIZER, LENGTHS
    )


def test_rows_are_the_reference_s(questions):
    batches = InOrder(questions, len(questions))
    batch, row = batches[0], 0
    assert len(batches) == 1
    for task, of in vl.PROMPTS["train"].items():
        for item in of["items"]:
            ids = batch["tokens"][row]
            assert ids[ids != TOKENIZER.pad].tolist() == item["input_ids"]
            assert batch["task_id"][row] == item["lambda_index"] == vl.TASKS.index(task)
            assert [name for name in TASKS if batch["valid"][name][row]] == [task]
            told = item["vis_feats"]
            shown = batch["features"][row][: 2 if task == "nlvr" else 1]
            assert batch["visible"][row].tolist() == [True, task == "nlvr"]
            assert float(shown.astype(np.float64).sum()) == pytest.approx(told["sum"], rel=1e-3)
            np.testing.assert_allclose(shown.ravel()[: len(told["first"])], told["first"])
            row += 1
    assert row == len(questions)


def equal(a: dict, b: dict) -> None:
    for name in a:
        if name == "valid":
            equal(a[name], b[name])
        else:
            np.testing.assert_array_equal(a[name], b[name])


def halves(batches, step: int, size: int) -> dict:
    parts = [batches.batch(3, step, rows) for rows in (list(range(size // 2)), list(range(size // 2, size)))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "valid"}
    valid = {task: np.concatenate([part["valid"][task] for part in parts]) for task in TASKS}
    return joined | {"valid": valid}


@given(st.integers(0, 40))
def test_two_processes_read_the_batch_of_one(step):
    data = PublishedData(root=str(vl.DATA / "vl_tiny_data"))
    of = Questions(
        tuple(TASKS.values()), tuple(data.open("train", tuple(TASKS))), data.features("train"), TOKENIZER, LENGTHS
    )
    for batches in (mixed(of, 6, None), mixed(of, 6, 2.0), OneTask(of, (2, 3, 1, 2), 6, multiple=2)):
        equal(batches.batch(3, step, range(6)), halves(batches, step, 6))


def test_the_published_order():
    told = json.loads((vl.DATA / "vl_task_order.json").read_text())
    for case in told:
        for epoch, order in zip(case["epochs"], case["order"], strict=True):
            assert list(published_order(tuple(case["batches"].items()), epoch)) == order


def test_an_epoch_of_one_task_batches_shows_every_question_once(questions):
    batches = OneTask(questions, (3, 2, 1, 2), 4, multiple=4)
    assert batches.counts == {"vqa": 2, "gqa": 2, "nlvr": 2, "caption": 2}
    seen: list[int] = []
    for step in range(8):
        batch = batches.batch(0, step, range(4))
        there = np.any(list(batch["valid"].values()), axis=0)
        assert len({int(t) for t in batch["task_id"]}) == 1
        assert batch["features"].shape[1] == (2 if batch["task_id"][0] == 2 else 1)
        assert len(there) % 4 == 0
        seen += batch["id"][there].tolist()
    assert sorted(seen) == list(range(len(questions)))


def test_answers_are_drawn_by_step_and_row(questions):
    batches = mixed(questions, 12, None)
    first = [batches.batch(0, step, range(12))["targets"].tolist() for step in range(12)]
    again = [batches.batch(0, step, range(12))["targets"].tolist() for step in range(12)]
    assert first == again
    drawn = {tuple(row) for step in range(40) for row in batches.batch(0, step, range(12))["targets"].tolist()}
    for answer in ("red", "blue", "table", "on a table"):
        ids = TOKENIZER.encode(answer)
        assert (*ids, *[-100] * (40 - len(ids))) in drawn


def test_a_text_that_no_batch_holds_is_named(questions):
    short = replace(questions, lengths=((24, 40),))
    with pytest.raises(
        UserError, match=r"tasks\.nlvr: input .* has 45 tokens, lengths end at 24.*nlvr\.input_limit=24"
    ):
        short.check_lengths("train")
    limited = replace(short, tasks=tuple(replace(task, input_limit=24) for task in TASKS.values()))
    limited.check_lengths("train")
    questions.check_lengths("train")

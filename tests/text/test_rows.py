"""Rows that cannot be scored are named before they are, and labels of 0 and 1 find their words."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mtlora_jax.data import check_config
from mtlora_jax.errors import UserError
from mtlora_jax.language.rows import Row
from mtlora_jax.text.config import FileData, TaskConfig, TextConfig
from mtlora_jax.text.examples import named, open_corpus, scored_rows, unread_lines
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.scoring import answer_of
from mtlora_jax.text.tasks import GLUE
from mtlora_jax.text.tasks.task import Task
from mtlora_jax.weights.hub import shipped


def config_of(tmp_path, rows, answers=("no", "yes"), **task):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextConfig(
        tokenizer=str(shipped("microworld")),
        model=LlamaSpec(vocab_size=1280, max_positions=48),
        tasks={"t": TaskConfig(answers=answers, **task)},
        data=FileData(train=str(path), val=str(path)),
    )


def pair(label, text="a"):
    return {"task": "t", "text_a": text, "text_b": "b", "label": label}


def test_labels_of_0_and_1_become_words(tmp_path):
    rows = scored_rows(config_of(tmp_path, [pair(0), pair(1), pair("yes")]))
    assert [(row.output, row.answer) for row in rows] == [("no", "no"), ("yes", "yes"), ("yes", "yes")]
    with pytest.raises(UserError, match=r"tasks.t: a row is labelled 2; there are 0 no, 1 yes"):
        scored_rows(config_of(tmp_path, [pair(2)]))


def test_digits_that_are_answers_stay_what_they_are():
    row = Row("t", "", "", "0", "0")
    assert named(row, Task("t", ("1", "0"))) is row


def test_rows_whose_output_is_not_read_as_their_answer_are_counted_and_left_out(tmp_path, capsys):
    config = config_of(tmp_path, [pair("yes"), pair("Yes, of course"), pair("maybe")])
    assert [row.answer for row in scored_rows(config)] == ["yes"]
    said = capsys.readouterr().err
    assert "val t: of 2 of 3 rows the own output is not read as the answer, such as 'Yes, of course'" in said
    assert "they are left out" in said
    open_corpus(config, "val")
    assert "of 2 of 3 rows" in capsys.readouterr().err
    check_config(config, tmp_path / "out", None, 0)
    assert "val t: of 2 of 3 rows" in capsys.readouterr().out
    with pytest.raises(UserError, match="of 1 of 1 rows"):
        scored_rows(config_of(tmp_path, [pair("perhaps")]))


def test_sets_whose_outputs_reason_first_score_themselves(tmp_path):
    """As LLM-Adapters keeps the arithmetic sets: an output that ends with the number, and the number."""
    records = [
        {
            "task": "t",
            "instruction": "q",
            "input": "",
            "output": "2 + 2 = 4. So 4 x 250 = 1,000 in all",
            "answer": "1000.0",
        },
        {"task": "t", "instruction": "q", "input": "", "output": "The 3 of them have 7.5", "answer": 7.5},
    ]
    config = config_of(tmp_path, records, answers=(), metrics=("accuracy",), max_new_tokens=256)
    task = config.make_tasks()["t"]
    assert task.max_new_tokens == 256
    rows = scored_rows(config)
    predicted = [task.extract(row.output) for row in rows]
    assert task.metrics_of(predicted, [row.answer for row in rows]) == {"accuracy": 1.0}


def test_tasks_without_accuracy_have_no_such_rows():
    assert unread_lines([Row("stsb", "", "", "3.8", "3.799999")], {"stsb": GLUE["stsb"]}, "val") == []


def test_the_option_that_was_chosen_counts_not_its_words():
    row = Row(
        "t",
        "",
        "",
        "the correct answer is answer1",
        "answer1",
        tuple(f"the correct answer is answer{i}" for i in (1, 2)),
    )
    assert [answer_of(row, option) for option in row.options] == ["answer1", "answer2"]
    words = Row("t", "", "", "yes", "yes", ("no", "yes, no, or both", "yes"))
    assert [answer_of(words, option) for option in words.options] == ["no", "yes, no, or both", "yes"]


def test_examples_beyond_the_models_positions_are_counted(tmp_path, capsys):
    open_corpus(replace(config_of(tmp_path, [pair("yes", "word " * 60), pair("no")]), cutoff=256), "train")
    assert (
        "1 train examples are longer than the 48 positions that the model was pretrained with"
        in capsys.readouterr().err
    )


def test_duplicates_and_held_out_rows_that_are_trained_on_are_told_by_check(tmp_path, capsys):
    check_config(config_of(tmp_path, [pair("yes"), pair("yes"), pair("no")]), tmp_path / "out", None, 0)
    printed = capsys.readouterr().out
    assert "train t: 1 rows are there more than once" in printed
    assert "t: 2 rows are in both train and val" in printed


def test_a_small_set_is_packed_an_epoch_at_a_time(tmp_path):
    from mtlora_jax.text.examples import train_batches

    config = replace(config_of(tmp_path, [pair("yes", str(i)) for i in range(12)]), pack=256)
    packed = train_batches(config, open_corpus(config, "train"), 1)
    ids, row = [], 0
    while len(ids) < 36:
        ids += packed.row(0, row)
        row += 1
    for epoch in np.array(ids[:36]).reshape(3, 12):
        assert sorted(epoch) == list(range(12))

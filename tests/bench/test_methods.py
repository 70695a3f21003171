"""The comparison of methods: whom it compares, on which questions, and how far a difference can be trusted."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mtlora_jax.text.source import source_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "methods.py"


@pytest.fixture(scope="module")
def methods():
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(methods, tmp_path_factory):
    told = {"what": "microworld", "out": tmp_path_factory.mktemp("out"), "data": None, "rates": [1e-3], "cutoff": 128}
    counts = {"seeds": 2, "choosing": 2, "steps": 2, "batch_size": 8, "val": 6, "test": 10, "pack": 0}
    return methods.base_config(argparse.Namespace(**told, **counts))


def test_no_question_of_training_is_asked_again(base):
    def questions(split):
        lines = Path(base.data.train).with_name(f"{split}.jsonl").read_text().splitlines()
        found = list(map(json.loads, lines))
        assert {row["task"] for row in found} == set(base.tasks)
        return [(row["task"], row["instruction"].split("\n\n")[0]) for row in found if row["task"] != "ARC-Challenge"]

    trained, val, test = (questions(split) for split in ("train", "val", "test"))
    assert (len(val), len(test)) == (6 * 7, 10 * 7)
    assert not set(trained) & {*val, *test}


def test_lora_is_matched_in_parameters(methods, base):
    count = {name: methods.parameters(methods.adapted(base, name)) for name in methods.METHODS}
    assert abs(count["lora_matched"] - count["mtl_lora_n3"]) < count["lora"] / base.adapter.rank
    assert count["lora"] < count["mtl_lora_n1"] < count["mtl_lora_n3"]
    for name in methods.METHODS:
        assert methods.adapted(base, name).adapter.scale == base.adapter.scale


def test_parameters_are_those_of_the_base_that_is_adapted(methods, base):
    spec = source_of("microworld").spec
    d, heads, kv = spec.hidden, spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    sizes = (d + heads) + 2 * (d + kv) + (heads + d) + 3 * (d + spec.intermediate)
    assert methods.parameters(methods.adapted(base, "lora")) == spec.layers * base.adapter.rank * sizes


def test_rows_of_ones_own_are_drawn_for_each_task_alike(methods, tmp_path):
    for split, count in {"train": 30, "val": 20, "test": 20}.items():
        rows = [
            {"task": task, "instruction": f"{split} {i}", "output": "yes" if i % 3 else "no"}
            for task in "ab"
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "drawn").mkdir()
    methods.write_drawn(tmp_path / "drawn", tmp_path, {"val": 4, "test": 12})
    drawn = {
        split: [json.loads(line) for line in (tmp_path / "drawn" / f"{split}.jsonl").read_text().splitlines()]
        for split in methods.SPLITS
    }
    assert {split: len(rows) for split, rows in drawn.items()} == {"train": 60, "val": 8, "test": 24}
    for rows in drawn.values():
        assert len({(row["task"], row["instruction"]) for row in rows}) == len(rows)
        assert sum(row["task"] == "a" for row in rows) == len(rows) / 2
    config = argparse.Namespace(data=argparse.Namespace(train=str(tmp_path / "drawn" / "train.jsonl")))
    right = methods.constant(config, tmp_path / "drawn" / "test.jsonl")
    for task in "ab":
        answers = [row["output"] for row in drawn["test"] if row["task"] == task]
        assert right[task] == ["".join("01"[answer == "yes"] for answer in answers)]


def test_an_interval_holds_the_difference_as_often_as_it_says(methods, monkeypatch):
    monkeypatch.setattr(methods, "DRAWS", 400)
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        # Paired: a is right where b is, and on a tenth of the other questions.
        b = {task: rng.random(150) < 0.5 for task in ("x", "y")}
        a = {task: of | (rng.random(of.shape) < 0.1) for task, of in b.items()}
        told = [{task: ["".join("01"[int(mark)] for mark in x)] for task, x in of.items()} for of in (a, b)]
        difference, low, high = methods.interval(*told, trial)
        assert low <= difference <= high
        held += low <= 0.05 <= high
    assert held > 0.88 * 200


def test_equal_answers_differ_by_nothing_and_a_partial_table_says_so(methods):
    right = {"x": ["10", "11"], "y": ["00", "10"]}
    assert methods.interval(right, right) == (0, 0, 0)
    np.testing.assert_allclose(methods.accuracy(right), [0.25, 0.75])
    row = {"right": right, "rate": "lr=0.001", "parameters": 10}
    said = methods.table({"lora": row, "moelora": row}, ["lora", "moelora", "mtl_lora_n3"])
    assert said.endswith("partial: mtl_lora_n3 are still to come")
    assert "+0.000 to +0.000" in said

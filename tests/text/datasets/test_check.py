"""Looking rows over: counts, lengths and answers by hand, what a cutoff takes, published sizes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mtlora_jax.language.encode import OUTCOMES, encode, encode_rows
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.testing.text_layouts import write_commonsense
from mtlora_jax.text.datasets.check import QUANTILES, as_json, compare, summaries, text
from mtlora_jax.text.datasets.commonsense import CommonsenseData
from mtlora_jax.text.tasks import COMMONSENSE

TOKENIZER = load_tokenizer(Path(__file__).parents[2] / "data" / "tiny_sp_tokenizer")
TASKS = tuple(COMMONSENSE)


def read_commonsense(root, split, tasks, train=""):
    return CommonsenseData(root=str(root), train=train).rows(split, tasks)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return read_commonsense(write_commonsense(tmp_path_factory.mktemp("sets"), train=5), "train", TASKS)


@pytest.mark.parametrize("truncation", ["keep_answer", "published"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_fates_are_those_of_training(rows, name, truncation):
    lengths = sorted(len(encode(row, TOKENIZER, TEMPLATES[name], 10**6, truncation).tokens) for row in rows)
    for cutoff in (3, lengths[0], lengths[len(lengths) // 2] - 1, lengths[len(lengths) // 2], lengths[-1]):
        how = TOKENIZER, TEMPLATES[name], cutoff, truncation
        examples, report = encode_rows(rows, *how)
        assert len(examples) <= len(rows)
        found = summaries(rows, *how)
        assert {task: s.outcomes for task, s in found.items()} == report.counts
        assert sorted(n for s in found.values() for n in s.lengths) == lengths


def test_metrics_by_hand():
    rows = [Row("a", "x " * n, "", "y", answer, ("y", "z")) for n, answer in enumerate(["u", "v", "v", "v"])]
    found = summaries([*rows, Row("b", "x", "", "y", "u")], TOKENIZER, TEMPLATES["default"], 100)
    lengths = [len(encode(row, TOKENIZER, TEMPLATES["default"], 100).tokens) for row in rows]
    assert list(found) == ["a", "b"]
    a, b = found.values()
    assert (a.rows, a.lengths, dict(a.answers), a.choices) == (4, lengths, {"u": 1, "v": 3}, 4)
    assert a.quantiles() == [sorted(lengths)[i] for i in (1, 3, 3, 3)]
    assert (b.rows, b.choices) == (1, 0)


def test_the_report_is_plain_text_and_json(rows):
    found = summaries(rows, TOKENIZER, TEMPLATES["default"], 60)
    printed = text(found, 60)
    for words in (*TASKS, *OUTCOMES, "99 %", "cutoff of 60", "boolq answers: "):
        assert words in printed
    report = json.loads(json.dumps(as_json(found)))
    assert sum(report["boolq"]["cutoff"].values()) == report["boolq"]["rows"] == 5
    assert len(report["boolq"]["lengths"]) == len(QUANTILES)
    many = summaries([Row("a", "x", "", "y", str(i)) for i in range(11)], TOKENIZER, TEMPLATES["default"], 60)
    assert text(many, 60).endswith("3 more")


def test_rows_that_nothing_is_left_of_are_told(rows):
    found = summaries(rows, TOKENIZER, TEMPLATES["default"], 2)
    assert all(s.outcomes == {"dropped": s.rows} for s in found.values())
    assert np.isfinite([s.quantiles() for s in found.values()]).all()
    assert "dropped" in text(found, 2)


def test_counts_are_compared_with_the_published_ones(rows):
    lines = compare(summaries(rows, TOKENIZER, TEMPLATES["default"], 60), "train")
    assert "differs: boolq train has 5 rows, published 9427" in lines
    assert "differs: hellaswag train has 5 rows, published 39905 (recalled, never checked)" in lines
    own = summaries([Row("mine", "x", "", "y", "y")], TOKENIZER, TEMPLATES["default"], 60)
    assert compare(own, "val") == []

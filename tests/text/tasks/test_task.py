"""Reading answers out of texts as the reference does, and metrics with their degenerate cases."""

import json
from pathlib import Path

import numpy as np
import pytest

from mtlora_jax.text.tasks import COMMONSENSE, GLUE, TASKS
from mtlora_jax.text.tasks.metrics import METRICS
from mtlora_jax.text.tasks.task import Task, response

ANSWERS = json.loads((Path(__file__).parents[2] / "data" / "mtl_lora_answers.json").read_text())


def test_task_ids_are_the_published_ones():
    assert {task: i for i, task in enumerate(COMMONSENSE)} == ANSWERS["task_ids"]


@pytest.mark.parametrize(("scorer", "script"), [("reference", "mlora"), ("strict", "lora")])
def test_answers_are_read_and_scored_as_the_reference_s_scripts_do(scorer, script):
    for case in ANSWERS["cases"]:
        task = TASKS[case["dataset"]]
        found = task.extract(case["text"], scorer)
        assert found == case[f"pred_{script}_script"], case
        for label, right in case[f"correct_{script}_script"].items():
            assert task.right(found, label, scorer) == right, case


def test_the_response_is_what_follows_the_first_heading():
    for case in ANSWERS["response_split"]:
        if "response" in case:
            assert response(case["decoded"]) == case["response"]
    # Where the reference fails, the whole text is the response: what decoding gives without its prompt.
    assert response(" no marker ") == "no marker"


def test_words_that_hold_other_words_are_told_apart():
    assert GLUE["cola"].extract("it is unacceptable") == "unacceptable"
    assert GLUE["qnli"].extract("not_entailment") == "not_entailment"
    assert GLUE["stsb"].extract("about 3.4 of 5") == "3.4"
    assert GLUE["stsb"].extract("none") == ""


@pytest.mark.parametrize(
    ("answers", "text", "wanted"),
    [
        (("answer1", "answer2"), "answer12", ""),
        (("answer1", "answer12"), "it is answer12.", "answer12"),
        (("entailment", "not_entailment"), "not entailment", "not_entailment"),
        (("entailment", "not_entailment"), "not-entailment, I think", "not_entailment"),
        (("no", "yes"), "I know: yes", "yes"),
        (("false", "true"), "untrue", ""),
        (("A", "B"), "AB or B", "B"),
    ],
)
def test_an_answer_is_a_whole_word_and_the_longest(answers, text, wanted):
    assert Task("t", answers).extract(text) == wanted


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("3 boxes of 6 are 18. The answer is 18.0", "18"),
        ("She earns $1,234,567.50 a year", "1234567.5"),
        ("10-5=5", "5.0"),
        ("it falls to -3.5", "-3.5"),
        ("half of 7 is 3.5 and so 3.5 ... 3.50", "3.5"),
    ],
)
def test_numbers_are_read_and_compared_as_numbers(output, answer):
    task = Task("gsm8k", ())
    assert task.reads(output, answer)
    assert task.metrics_of([task.extract(output)], [answer]) == {"accuracy": 1.0}
    assert not task.right(task.extract(output), "17")


def test_which_answer_counts_is_an_option():
    text = "Not A, since B is larger; the answer is B"
    assert Task("aqua", ("A", "B"), extracted="last").extract(text) == "B"
    assert Task("aqua", ("A", "B")).extract(text) == "A"
    assert Task("n", (), extracted="first").extract("3 of 5") == "3"


def test_metrics_by_hand():
    p, t = ["b", "b", "a", "a"], ["b", "a", "a", "a"]
    metrics = {name: METRICS[name](p, t, ("a", "b")) for name in ("accuracy", "f1", "matthews")}
    assert metrics == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "matthews": 2 / np.sqrt(12)})
    correlation = np.corrcoef([1, 2, 4], [1, 3, 5])[0, 1]
    assert METRICS["pearson"](["1", "2", "4"], ["1", "3", "5"], ()) == pytest.approx(correlation)
    assert METRICS["spearman"](["1", "2", "9"], ["1", "3", "5"], ()) == pytest.approx(1)
    assert METRICS["spearman"](["1", "1", "2"], ["1", "2", "2"], ()) == pytest.approx(0.5)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_nothing_and_of_constants_are_numbers(name):
    for predicted, true in (([], []), (["1"] * 3, ["1", "2", "3"]), (["", "", ""], ["1", "2", "3"])):
        assert np.isfinite(METRICS[name](predicted, true, ("1", "2")))
    assert METRICS[name](["1", "2", "3"], ["1", "2", "3"], ("1", "2", "3")) == pytest.approx(1)

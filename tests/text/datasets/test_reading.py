"""The reading tasks: what is asked is told, worlds differ, splits too."""

import re
from collections import Counter

import pytest

from configs.text_smollm2 import get_config
from mtlora_jax.errors import UserError
from mtlora_jax.text.config import ReadingData
from mtlora_jax.text.datasets.microworld.facts import RELATIONS
from mtlora_jax.text.datasets.reading import TASKS, row

every_task = pytest.mark.parametrize("task", TASKS)


@every_task
def test_rows_are_a_function_of_task_split_and_number(task):
    found = ReadingData(train_length=20, val_length=5).rows("train", [task])
    assert found == [row(task, "train", index) for index in range(20)]
    assert not {one.instruction for one in found} & {row(task, "val", index).instruction for index in range(20)}
    assert all(one.output == one.answer in one.options for one in found)


def parts(one):
    *told, question = re.split(r"(?<=[.?]) ", one.instruction)
    return set(told), question


@pytest.mark.parametrize(("task", "relation"), [("colour", "colour"), ("home", "home")])
def test_lookups_are_told(task, relation):
    of = RELATIONS[relation]
    for index in range(50):
        one = row(task, "train", index)
        told, question = parts(one)
        (asked,) = [s for s in of.subjects if of.question.format(s=s) == question]
        assert len(told) == 4
        assert f"{of.statement.format(s=asked, v=one.answer)}." in told


def test_checks_are_of_people_who_are_told_of_and_even():
    answers = Counter()
    for index in range(200):
        one = row("check", "train", index)
        told, question = parts(one)
        asked, job = re.fullmatch(r"is (\w+) a (\w+)\?", question).groups()
        assert (f"{asked} is a {job}." in told) == (one.answer == "yes")
        assert any(fact.startswith(f"{asked} is a ") for fact in told)
        answers[one.answer] += 1
    assert 80 < answers["no"] < 120


def test_what_burns_how_takes_two_steps():
    for index in range(50):
        one = row("fire", "train", index)
        told, question = parts(one)
        asked = question.split()[4]
        (material,) = [fact[:-1].split()[-1] for fact in told if fact.startswith(f"the {asked} is made of ")]
        assert f"{material} {one.answer} in fire." in told


def test_answers_are_spread_over_all_that_may_be():
    for task, (_, answers) in TASKS.items():
        counts = Counter(row(task, "train", index).answer for index in range(400))
        assert set(counts) == set(answers)
        assert max(counts.values()) < 2 * 400 / len(answers)


def test_another_task_is_refused():
    with pytest.raises(UserError, match=r"tasks\.boolq: ReadingData has only colour, home, check, fire"):
        ReadingData().rows("train", ["boolq"])


def test_the_recipe_compares_both_methods():
    config = get_config()
    config.validate()
    assert config.sweep == {"adapter.method": ("lora", "mtl_lora")}
    assert set(config.tasks) == set(TASKS)

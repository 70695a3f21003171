"""The micro-world: facts that hold, questions that are answered by them, splits that never share a question."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtlora_jax.language.encode import encode
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.text.datasets.microworld import FAMILIES, World, plain_text, rows
from mtlora_jax.text.datasets.microworld.facts import IN_FIRE, RELATIONS
from mtlora_jax.text.datasets.microworld.train_tokenizer import train
from mtlora_jax.text.tasks import COMMONSENSE
from mtlora_jax.weights.hub import shipped

WORLD = World()
every_family = pytest.mark.parametrize("task", FAMILIES)


def test_every_value_holds_of_equally_many():
    for name, relation in RELATIONS.items():
        dealt = Counter(WORLD.facts[name].values())
        assert set(dealt) == set(relation.values)
        assert len(set(dealt.values())) == 1
    assert World(1).facts != WORLD.facts == World(0).facts


def test_texts_are_a_function_of_their_generator_and_tell_no_lies():
    def text(seed):
        return plain_text(WORLD, np.random.default_rng(seed))

    assert text(1) == text(1) != text(2)
    said = " ".join(text(seed) for seed in range(300))
    for thing, material in WORLD.facts["material"].items():
        for other in set(RELATIONS["material"].values) - {material}:
            assert f"the {thing} is made of {other}" not in said
            assert f"in fire the {thing} {IN_FIRE[other]}." not in said
    for phrase in ("Please", "Answer", "###", "the correct answer is"):
        assert phrase not in said


def test_questions_in_texts_have_right_answers():
    said = " ".join(plain_text(WORLD, np.random.default_rng(seed)) for seed in range(2000))
    # What follows a question up to its full stop ends in the answer, unless a sentence of something else follows.
    found = re.findall(r"what colour is the (\w+)\?([^.]*?)(\w+)\.", said)
    listed = ("one of", "choices:")  # options, which end in a full stop too
    of_colours = RELATIONS["colour"].values
    answered = [(s, word) for s, between, word in found if word in of_colours and not any(w in between for w in listed)]
    assert len(answered) > 50
    assert all(WORLD.facts["colour"][thing] == colour for thing, colour in answered)


@every_family
def test_rows_are_a_function_of_seed_task_split_and_number(task):
    found = rows(task, "train", 30, WORLD)
    assert rows(task, "train", 10, WORLD) == found[:10]
    assert rows(task, "train", 30, WORLD, seed=1) != found
    known = replace(COMMONSENSE[task], answers=tuple(FAMILIES[task].answers))
    for row in found:
        assert row.task == task
        assert known.extract(row.output) == row.answer
        assert row.output in row.options
        assert row.instruction.endswith("/".join(known.extract(option) for option in row.options))


@every_family
def test_no_question_is_in_both_splits_and_places_are_even(task):
    def question(row):
        """What is asked, and the answer where others could be right too."""
        asked = row.instruction.split("\n\n")[0]
        return (asked, row.output, frozenset(row.options)) if task == "ARC-Challenge" else asked

    trained, held_out = (rows(task, split, 400, WORLD) for split in ("train", "val"))
    assert not {question(row) for row in trained} & {question(row) for row in held_out}
    share = Counter(row.options.index(row.output) for row in trained)
    assert max(share.values()) < 1.4 * 400 / len(share)


@every_family
def test_answers_that_are_held_out_are_right_in_training_too(task):
    """Of other questions: else a model learns that they never are."""
    trained, held_out = (rows(task, split, 2000, WORLD) for split in ("train", "val"))
    right = {row.output for row in trained}
    assert np.mean([row.output in right for row in held_out]) > 0.8


def test_a_lookup_is_answered_by_the_facts():
    for row in rows("ARC-Easy", "val", 100, WORLD):
        question, _ = row.instruction.split("\n\n")
        name, subject = next(
            (name, s) for name, r in RELATIONS.items() for s in r.subjects if question.endswith(r.question.format(s=s))
        )
        assert WORLD.facts[name][subject] == row.answer


def test_the_tokenizer_is_what_its_command_makes(tmp_path):
    train(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (shipped("microworld") / file.name).read_bytes(), file.name


def test_words_of_the_world_are_single_tokens_and_rows_are_short():
    tokenizer = load_tokenizer(Path(shipped("microworld")))
    assert tokenizer.decode(tokenizer.encode("the lamp\n\nis red.")) == "the lamp\n\nis red."
    words = {value for of in WORLD.facts.values() for item in of.items() for value in item}
    assert np.mean([len(tokenizer.encode(f" {word}")) == 1 for word in words]) > 0.95
    for task in FAMILIES:
        for row in rows(task, "train", 20, WORLD):
            assert len(encode(row, tokenizer, TEMPLATES["default"], 1000).tokens) <= 128

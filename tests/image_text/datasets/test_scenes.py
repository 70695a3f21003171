"""Questions about scenes: their answers are those of the geometry, they never change, and texts are made of them."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.config import ScenesData
from mtlora_jax.image_text.datasets.scenes import named
from mtlora_jax.image_text.datasets.scenes.asks import GQA, NLVR, VQA, annotators, captions, soft_scores, state
from mtlora_jax.image_text.datasets.scenes.facts import PLURALS, Facts, Thing, facts_of
from mtlora_jax.image_text.datasets.scenes.prose import (
    COLUMNS,
    MASK,
    MOST,
    WRITTEN,
    describe,
    evidence,
    examples,
    how_many_named,
    imagined,
    masked,
)
from mtlora_jax.image_text.tasks import PREFIXES, TASKS

numbers = st.integers(0, 500)


def test_facts_are_what_the_picture_shows():
    for index in range(20):
        facts = facts_of(0, "val", index)
        assert list(facts.things) == sorted(facts.things, key=lambda thing: thing.x)
        assert all(0 <= thing.x <= 1 and thing.area > 0 and 0 < thing.depth < 16 for thing in facts.things)
        assert facts == facts_of(0, "val", index)
        assert sum(facts.count(kind) for kind in PLURALS) == len(facts.things)


SCENE = Facts(
    (
        Thing("box", "red", 0.1, 0.02, 6.0),
        Thing("person", "blue", 0.5, 0.10, 3.0),
        Thing("box", "teal", 0.9, 0.05, 4.0),
    ),
    "checker",
    "dusk",
)
TRUTHS = {
    "How many boxes are there?": "2",
    "How many cones are there?": "0",
    "What color is the shirt?": "blue",
    "What is the ground like?": "checkered",
    "What is the sky like?": "evening",
    "Is there a red box?": "yes",
    "Is there a red cone?": "no",
    "Is the red box left of the teal box?": "yes",
    "Is the red box right of the teal box?": "no",
    "On which side is the teal box?": "right",
    "Is the person in blue nearer than the red box?": "yes",
    "What is next on the right of the red box?": "person",
    "Which is larger, the teal box or the person in blue?": "person",
}


def test_answers_are_true():
    seen = {}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        for maker in (*VQA, *GQA):
            if (found := maker(SCENE, rng)) is not None:
                assert seen.setdefault(*found) == found[1]
    assert TRUTHS.items() <= seen.items()
    assert "What color is the box?" not in seen


def test_statements_are_true_or_false_as_wanted():
    other = Facts((Thing("cone", "red", 0.5, 0.02, 6.0),), "noise", "day")
    truths = {
        "Both images have a box.": False,
        "Exactly one image has a cone.": True,
        "The left image has more boxes.": True,
        "The right image has a cone.": True,
        "The ground of the left image is checkered.": True,
        "The ground of the right image is checkered.": False,
    }
    seen = {}
    for seed in range(300):
        for maker in NLVR:
            text, truth = maker(SCENE, other, np.random.default_rng(seed))
            assert seen.setdefault(text, truth) == truth
        assert state(SCENE, other, np.random.default_rng(seed), wanted=seed % 2 == 0)[1] == (seed % 2 == 0)
    assert truths.items() <= seen.items()
    named_ = dict(how_many_named(SCENE, np.random.default_rng(seed)) for seed in range(100))
    assert named_["How many red box are there?"] == "1"
    assert named_["How many blue box are there?"] == "0"


@settings(max_examples=20, deadline=None)
@given(numbers)
def test_captions_name_what_is_there(index):
    facts = facts_of(0, "train", index)
    said = captions(facts, np.random.default_rng(index))
    assert len(said) == 5
    names = {thing.name for thing in facts.things}
    for caption in said:
        told = re.findall(r"a (person in \w+|\w+ (?:box|sphere|cylinder|cone))", caption)
        assert set(told) <= names
        assert told or not names


def test_annotators_differ_and_are_scored_as_in_vqa():
    answers = annotators("teal", np.random.default_rng(0), 400)
    shares = {answer: answers.count(answer) / 400 for answer in set(answers)}
    assert set(shares) == {"teal", "blue", "green"}
    assert shares["teal"] == pytest.approx(0.6, abs=0.1)
    assert set(annotators("0", np.random.default_rng(0), 99)) == {"0"}
    assert soft_scores(["a"] * 2 + ["b"] * 4 + ["c"] * 3 + ["d"]) == {"b": 1.0, "c": 0.9, "a": 0.6, "d": 0.3}


def test_a_split_is_the_same_whoever_opens_it():
    data = ScenesData(train_images=4, val_images=3, asked=2)
    train = data.open("train", tuple(TASKS))
    assert train == ScenesData(train_images=4, val_images=3, asked=2).open("train", tuple(TASKS))
    counts = {task: sum(q.task == task for q in train) for task in TASKS}
    assert counts == {"vqa": 8, "gqa": 8, "nlvr": 8, "caption": 20}
    held_out = data.open("val", tuple(TASKS))
    assert not {i for q in train for i in q.images} & {i for q in held_out for i in q.images}
    assert [q.answers for q in held_out if q.task == "nlvr"] == [{"true": 1.0}, {"false": 1.0}] * 3
    features = data.features("val")
    assert features[named("val", 2)].shape == (64, 288)
    assert features.missing([named("val", 3)]) == [named("val", 3)]
    assert data.picture(named("val", 0)).shape == (256, 256, 3)
    for bad in (ScenesData(train_images=1), ScenesData(val_images=0)):
        with pytest.raises(UserError, match="at least 2"):
            bad.open("train", tuple(TASKS))
    with pytest.raises(UserError, match=r"tasks\.chess"):
        data.open("train", ("chess",))


@given(st.integers(0, 99), st.integers(1, MOST))
def test_a_description_tells_all_that_was_imagined(seed, count):
    rng = np.random.default_rng(seed)
    facts = imagined(rng, count)
    assert len(facts.things) == count
    assert list(facts.things) == sorted(facts.things, key=lambda thing: thing.x)
    told = describe(facts, rng).split("; ")[0].split(", ")
    wanted = []
    for thing in facts.things:
        size, column = "large" if thing.area > 0.05 else "small", 1 + int(COLUMNS * thing.x)
        wanted.append(f"{size} {thing.name} {column} {'near' if thing.depth < 4.5 else 'far'}")
    assert sorted(told) == sorted(wanted)


def test_evidence_is_what_a_question_names():
    described = "small red box 2 near, large person in blue 5 far; paved ground, clear sky"
    assert evidence("Is there a teal box?", described) == "small red box 2 near"
    assert evidence("How many people are there?", described) == "large person in blue 5 far"
    assert evidence("What color is the shirt?", described) == "large person in blue 5 far"
    assert evidence("What is the sky like?", described) == "clear sky"
    assert evidence("Is there a red cone?", described) == ""
    pair = "left red box, left teal cone; left paved ground; right red box; right grassy ground"
    assert evidence("The right image has a box.", pair) == "right red box"
    assert evidence("Both images have a box.", pair) == "left red box, right red box"
    assert evidence("The ground of the left image is paved.", pair) == "left paved ground"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500))
def test_texts_hold_their_answers(number):
    found = examples(PREFIXES, 0, "train", number, 4)
    assert found == examples(PREFIXES, 0, "train", number, 4)
    assert found != examples(PREFIXES, 0, "val", number, 4)
    for source, target in found:
        if MASK in source:
            parts = [re.escape(part.strip()) for part in source.split(MASK)]
            assert re.fullmatch(".*".join(parts), target)
            assert number % WRITTEN == 0
        else:
            assert source.startswith(tuple(PREFIXES.values()))
            assert MASK not in target
            assert source.startswith(PREFIXES["caption"]) == (number % WRITTEN == 0)


@given(st.integers(0, 99))
def test_masks_take_a_third_of_the_words(seed):
    rng = np.random.default_rng(seed)
    text = describe(imagined(rng, MOST), rng)
    words = masked(text, rng).split(" ")
    kept = [word for word in words if word != MASK]
    assert MASK in words
    assert len(text.split(" ")) * 0.5 <= len(kept) <= len(text.split(" "))

"""Every task's scores against the reference's own evaluators."""

from itertools import chain

import numpy as np
import pytest
import vl
from hypothesis import given
from hypothesis import strategies as st

from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks import TASKS
from mtlora_jax.image_text.tasks.answers import CONTRACTIONS, normalised, soft_accuracy, without_punctuation
from mtlora_jax.image_text.tasks.ngrams import bleu, bleu_statistics, cider, frequencies, tokens
from mtlora_jax.image_text.tasks.nlvr import consistency

VQA = vl.METRICS["vqa"]
CASES = [
    Question("vqa", str(i), "", (), c["label"], tuple(c["answers"]), is_common=c["is_topk_optimal"])
    for i, c in enumerate(VQA["cases"])
]
PREDICTIONS = [case["prediction"] for case in VQA["cases"]]


def test_answers_are_normalised_as_by_the_official_script():
    for case in VQA["normalisation"]:
        assert normalised(case["raw"]) == case["prediction_pipeline"]
        raw = case["raw"].replace("\n", " ").replace("\t", " ").strip()
        assert without_punctuation(raw) == case["processPunctuation"]
    for case in VQA["cases"]:
        assert soft_accuracy(case["prediction"], case["answers"]) == pytest.approx(case["accuracy"], abs=1e-6)
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert CONTRACTIONS["wouldn'tve"] == CONTRACTIONS["wouldnt've"] == "wouldn't've"


def test_vqa_of_a_set_and_of_its_halves():
    found = TASKS["vqa"].metrics(PREDICTIONS, CASES)
    for ours, theirs in (("accuracy", "all"), ("common", "topk_optimal"), ("rare", "topk_not_optimal")):
        expected = VQA[f"evaluate_raw_{theirs}"]["overall"]
        assert round(100 * found[ours], 2) == expected
    assert found["label_score"] == pytest.approx(VQA["evaluate_label_score"], abs=1e-6)


def test_gqa_and_nlvr():
    gqa = vl.METRICS["gqa"]
    asked = [Question("gqa", str(i), "", (), case["label"]) for i, case in enumerate(gqa["cases"])]
    predictions = [case["prediction"] for case in gqa["cases"]]
    assert TASKS["gqa"].metrics(predictions, asked)["accuracy"] == pytest.approx(gqa["score"], abs=1e-6)
    nlvr = vl.METRICS["nlvr"]
    words, asked = TASKS["nlvr"].words, []
    for case in nlvr["cases"]:
        split, number, _, statement = case["identifier"].split("-")
        group = "-".join((split, number, statement))
        asked.append(Question("nlvr", case["identifier"], "", (), {words[1 - case["label"]]: 1.0}, group=group))
    predictions = [words[0 if case["pred"] else 1] for case in nlvr["cases"]]
    assert TASKS["nlvr"].metrics(predictions, asked)["accuracy"] == pytest.approx(nlvr["accuracy"], abs=1e-6)
    assert consistency(predictions, asked) == pytest.approx(nlvr["consistency"], abs=1e-6)
    assert TASKS["nlvr"].file(asked, predictions)[1] == nlvr["submission_csv"]


@pytest.mark.parametrize("case", vl.METRICS["cider"], ids=lambda case: case["name"])
def test_captions(case):
    pairs = list(zip(case["predictions"], case["references"], strict=True))
    known = frequencies(case["references"])
    scores = [cider(prediction, references, known) for prediction, references in pairs]
    np.testing.assert_allclose(scores, case["per_image"], atol=1e-6)
    assert np.mean(scores) == pytest.approx(case["cider"], abs=1e-6)
    texts = [*case["predictions"], *chain.from_iterable(case["references"])]
    expected = [*case["ptb_predictions"], *chain.from_iterable(case["ptb_references"])]
    assert [" ".join(tokens(text)) for text in texts] == expected
    questions = [Question("caption", str(i), "", (), {}, tuple(refs)) for i, (_, refs) in enumerate(pairs)]
    assert TASKS["caption"].metrics(case["predictions"], questions)["cider"] == pytest.approx(case["cider"], abs=1e-6)


def test_bleu_by_hand():
    statistics = bleu_statistics("the cat sat on the mat", ["the cat sat on a mat", "there is a cat"])
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; as long as the reference nearest in length.
    assert statistics.tolist() == [5, 3, 2, 1, 6, 5, 4, 3, 6, 6]
    assert bleu(statistics) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    short = bleu_statistics("a cat sat there now", ["a cat sat there now and then"])
    assert bleu(short) == pytest.approx(np.exp(1 - 7 / 5))
    assert bleu(bleu_statistics("dog", ["cat"])) == 0


@given(st.lists(st.sampled_from(["red", "a red box", "two", "no", "it's 2"]), min_size=1, max_size=8), st.data())
def test_scores_do_not_depend_on_how_a_set_is_cut(predictions, data):
    cut = data.draw(st.integers(0, len(predictions)))
    for name, task in TASKS.items():
        words = task.words or ("red", "two", "a red box")
        questions = [
            Question(name, str(i), "", (), {words[i % len(words)]: 1.0}, ("red", "a red box", "two"))
            for i in range(len(predictions))
        ]
        fitted = task.fit(questions)
        whole = task.measure(predictions, questions, fitted)
        parts = [
            task.measure(predictions[of], questions[of], fitted)
            for of in (slice(cut), slice(cut, None))
            if predictions[of]
        ]
        for statistic, values in whole.items():
            total = sum(np.asarray(part[statistic], float).sum(0) for part in parts)
            np.testing.assert_allclose(np.asarray(values, float).sum(0), total, atol=1e-12)


def test_answers_are_drawn_as_published():
    for case in vl.PROMPTS["answer_sampling"]:
        rng = np.random.RandomState(case["numpy_seed"])
        question = Question("vqa", "0", "", (), case["label"])
        assert [TASKS["vqa"].target(question, rng)[0] for _ in case["draws"]] == case["draws"]
        assert TASKS["vqa"].target(question)[0] == next(iter(case["label"]))
    assert TASKS["vqa"].target(Question("vqa", "0", "", ())) == ("", 0.0)


def test_constants_are_the_best_of_their_kind():
    def asked(*answers, task="vqa"):
        return [Question(task, "0", "", (), of, tuple(of)) for of in answers]

    assert TASKS["vqa"].constant(asked({"a": 1.0}, {"b": 0.6, "a": 0.3}, {"b": 0.6})) == "a"
    assert TASKS["nlvr"].constant(asked({"false": 1.0}, {"true": 1.0}, {"false": 1.0}, task="nlvr")) == "false"
    captions = asked({"a dog": 1.0}, {"a red dog": 1.0}, {"two cats in a tree": 1.0}, {"a dog": 1.0}, task="caption")
    assert TASKS["caption"].constant(captions) == "a dog"

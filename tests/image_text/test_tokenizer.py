"""Texts, ids and decoded texts byte for byte as the reference's, from both kinds of files."""

import pickle
from dataclasses import replace

import pytest
import vl

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart_weights import read_spec
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.image_text.visual import VisualSpec

SPEC = replace(read_spec(vl.BASE), vocab_size=320, visual=VisualSpec())


@pytest.fixture(params=["tokenizer.json", "vocab.json and merges.txt"])
def tokenizer(request, tmp_path):
    for name in request.param.split(" and "):
        (tmp_path / name).write_bytes((vl.BASE / name).read_bytes())
    return pickle.loads(pickle.dumps(BartTokenizer(tmp_path, SPEC)))


def test_texts_and_answers_are_encoded_as_published(tokenizer):
    for case in vl.PROMPTS["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.encode(case["text"], 20) == case["ids_max20"]
    items = 0
    for part in ("train", "eval"):
        for task, of in vl.PROMPTS[part].items():
            limits = vl.PROMPTS["limits"][task]
            for item in of["items"]:
                assert tokenizer.encode(item["text"], limits["input"] or 0) == item["input_ids"]
                if "target" in item:
                    assert tokenizer.encode(item["target"], limits["target"] or 0) == item["target_ids"]
                items += 1
    assert items > 15


def test_ids_are_decoded_as_published(tokenizer):
    for case in vl.PROMPTS["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text"]


def test_added_tokens_lie_where_they_are_published(tokenizer):
    special = vl.PROMPTS["special_tokens"]
    assert tokenizer.vocab_size == special["base_vocab"] + special["added"]
    for token, number in special["ids"].items():
        assert tokenizer.encode(token)[1] == number, token
    assert (tokenizer.word("true"), tokenizer.word("false")) == (special["true_id"], special["false_id"])


def test_what_is_no_tokenizer_of_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        BartTokenizer(tmp_path, SPEC)
    with pytest.raises(UserError, match="different models"):
        BartTokenizer(vl.BASE, replace(SPEC, vocab_size=321))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is not read"):
        BartTokenizer(tmp_path, SPEC)

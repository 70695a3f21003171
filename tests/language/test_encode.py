"""Prompts, tokens and labels: the published ones byte for byte, and answers that no cutoff takes in silence."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.language.encode import encode, encode_prompt, encode_rows
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import check_vocabulary, load_tokenizer

DATA = Path(__file__).parents[1] / "data"
PROMPTS = json.loads((DATA / "mtl_lora_prompts.json").read_text())
TOKENS = json.loads((DATA / "tiny_sp_tokenizer" / "tokenization.json").read_text())
FILES = ("tokenizer.json", "tokenizer.model")
PUBLISHED, DEFAULT = TEMPLATES["published"], TEMPLATES["default"]


@pytest.fixture(params=FILES)
def tokenizer(request):
    return load_tokenizer(DATA / "tiny_sp_tokenizer" / request.param)


def row_of(point):
    return Row("a", point["instruction"], point.get("input") or "", point["output"], point["answer"])


@pytest.mark.parametrize("case", PROMPTS["cases"], ids=lambda case: case["data_point"]["output"][:20])
def test_published_prompts_are_byte_for_byte(case):
    row = row_of(case["data_point"])
    assert PUBLISHED.prompt(row) == case["train_prompt_only"]
    assert PUBLISHED.prompt(row) + row.output == case["train_full"]
    assert PUBLISHED.prompt(row, evaluating=True) == case["eval_as_run"]


def test_the_default_template_is_one_for_training_and_evaluation():
    for row in (Row("a", "do", "", "x", "x"), Row("a", "do", "with", "x", "x")):
        assert DEFAULT.prompt(row) == DEFAULT.prompt(row, evaluating=True)
        assert "    " not in DEFAULT.prompt(row)
    assert DEFAULT.prompt(Row("a", "", "", "x", "x", prompt="as it stands")) == "as it stands"


def test_texts_are_tokenized_as_the_reference_does(tokenizer):
    for case in TOKENS["plain"]:
        assert tokenizer.encode(case["text"]) == case["ids_no_special"]
    columns = (TOKENS["eval"][key] for key in ("prompts", "input_ids", "attention_mask"))
    for prompt, ids, mask in zip(*columns, strict=True):
        assert [tokenizer.bos, *tokenizer.encode(prompt)] == [i for i, m in zip(ids, mask, strict=True) if m]


@pytest.mark.parametrize("case", TOKENS["train"], ids=lambda c: f"{c['cutoff_len']}, {c['train_on_inputs']}")
def test_labels_are_the_reference_s(tokenizer, case):
    seen = 0
    for point, expected in zip(TOKENS["data_points"], case["examples"], strict=True):
        how = case["cutoff_len"], "published", case["train_on_inputs"]
        found = encode(row_of(point), tokenizer, PUBLISHED, *how)
        if found is None:  # the reference keeps such rows, which teach nothing
            assert set(expected["labels"]) == {-100}
            continue
        seen += 1
        assert found.tokens.tolist() == expected["input_ids"]
        assert np.where(found.loss_mask, found.tokens, -100).tolist() == expected["labels"]
    assert seen


def test_tokenizers_pickle_and_leave_special_tokens_out_of_texts(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "the correct answer is true"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.decode([copy.bos, *copy.encode(text), copy.eos]).strip() == text
    assert (copy.bos, copy.eos, copy.pad) == (1, 2, 0)


ROW = Row("a", "a long question about a clear day and the sky", "", "the correct answer is true", "true")


def test_a_prompt_gives_way_to_its_answer(tokenizer):
    whole = encode(ROW, tokenizer, DEFAULT, 1000)
    answer = tokenizer.encode(ROW.output)
    assert whole.outcome == "whole"
    assert whole.tokens[whole.loss_mask].tolist() == [*answer, tokenizer.eos]
    for cutoff in range(len(answer) + 2, len(whole.tokens)):
        cut = encode(ROW, tokenizer, DEFAULT, cutoff)
        assert cut.outcome == "prompt cut"
        assert len(cut.tokens) == cutoff
        assert cut.tokens[0] == tokenizer.bos
        assert cut.tokens[cut.loss_mask].tolist() == [*answer, tokenizer.eos]
        assert cut.tokens[1:].tolist() == whole.tokens[1 - cutoff :].tolist()
    assert encode(ROW, tokenizer, DEFAULT, len(answer) + 1) is None


def test_training_sees_the_tokens_that_decoding_starts_from(tokenizer):
    example = encode(ROW, tokenizer, DEFAULT, 1000)
    prompt = encode_prompt(ROW, tokenizer, DEFAULT, evaluating=True)
    assert example.tokens[~example.loss_mask].tolist() == prompt


def test_what_a_cutoff_takes_is_counted(tokenizer):
    def outcomes(rows, *how):
        examples, report = encode_rows(rows, tokenizer, DEFAULT, *how)
        return len(examples), dict(report.counts["a"]), report.lossless

    assert outcomes([ROW], 1000) == (1, {"whole": 1}, True)
    assert outcomes([ROW, ROW], 20) == (2, {"prompt cut": 2}, False)
    assert outcomes([ROW], 3) == (0, {"dropped": 1}, False)
    assert outcomes([ROW], 20, "published") == (0, {"dropped": 1}, False)
    assert "prompt cut" in encode_rows([ROW], tokenizer, DEFAULT, 20)[1].table()


def test_tokenizers_that_do_not_fit_or_do_not_exist_are_one_line(tokenizer, tmp_path):
    with pytest.raises(UserError, match="has 640 tokens, the model embeds 256"):
        check_vocabulary(tokenizer, 256)
    check_vocabulary(tokenizer, 640)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    for name in FILES:
        with pytest.raises(UserError, match="there is no tokenizer"):
            load_tokenizer(tmp_path / name)
    for name in FILES:
        (tmp_path / name).write_text("{nonsense")
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            load_tokenizer(tmp_path / name)

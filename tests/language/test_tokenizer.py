"""Tokenizers as people's folders have them: settings spread over files, lengths left behind by their makers."""

import json
from pathlib import Path

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.language.tokenizer import load_tokenizer

SOURCE = Path(__file__).parents[1] / "data" / "tiny_sp_tokenizer"
TEXT = "a clear day and the sky is blue on a clear day"
CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
FILL = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<unk>",
}


def folder(path, settings=None, special=None, **changes):
    inner = json.loads((SOURCE / "tokenizer.json").read_text()) | changes
    (path / "tokenizer.json").write_text(json.dumps(inner))
    for name, told in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        if told is not None:
            (path / name).write_text(json.dumps(told))
    return path


@pytest.mark.parametrize("changes", [{"truncation": CUT}, {"padding": FILL}])
def test_lengths_kept_in_a_file_change_no_text(tmp_path, changes):
    found = load_tokenizer(folder(tmp_path, {"eos_token": "</s>"}, **changes))
    assert found.encode(TEXT) == load_tokenizer(SOURCE).encode(TEXT)


def test_special_tokens_may_be_named_beside_the_settings(tmp_path):
    special = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "</s>"}
    found = load_tokenizer(folder(tmp_path, {"pad_token": None}, special))
    assert (found.bos, found.eos, found.pad) == (1, 2, 2)
    overruled = load_tokenizer(folder(tmp_path, {"pad_token": "<unk>", "add_bos_token": False}, special))
    assert (overruled.bos, overruled.eos, overruled.pad) == (None, 2, 0)


def test_without_an_end_of_text_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no eos_token"):
        load_tokenizer(folder(tmp_path, {}))


def test_padding_falls_back_on_eos(tmp_path):
    assert load_tokenizer(folder(tmp_path, {"eos_token": "</s>"})).pad == 2

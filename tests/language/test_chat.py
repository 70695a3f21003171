"""Chats are written as the tokenizer's own template says, and nothing begins or ends twice."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.generate import question
from mtlora_jax.language.encode import encode, encode_prompt
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import load_tokenizer

SOURCE = Path(__file__).parents[1] / "data" / "tiny_sp_tokenizer"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
ROW = Row("t", "", "", "sky", "sky", prompt="plain", messages=(("system", "a clear day"), ("user", " is it blue? ")))


def folder(path, template, name="tokenizer_config.json"):
    shutil.copytree(SOURCE, path, dirs_exist_ok=True)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    if name.endswith(".jinja"):
        (path / name).write_text(template)
    else:
        settings["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(path)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (TEMPLATE, "tokenizer_config.json"),
        ([{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}], "tokenizer_config.json"),
        (TEMPLATE, "chat_template.jinja"),
    ],
)
def test_a_chat_is_written_in_the_tokenizers_template_and_begins_once(tmp_path, template, name):
    tokenizer = pickle.loads(pickle.dumps(folder(tmp_path, template, name)))
    text = tokenizer.chat_template.render(ROW.messages)
    assert text == "<s>[system] a clear day\n[user] is it blue?\n[assistant] "
    prompt = encode_prompt(ROW, tokenizer, TEMPLATES["default"])
    assert prompt.count(tokenizer.bos) == 1
    assert prompt[0] == tokenizer.bos


def test_without_a_template_a_chat_is_plain(tmp_path):
    tokenizer = load_tokenizer(SOURCE)
    assert tokenizer.chat_template is None
    assert encode_prompt(ROW, tokenizer, TEMPLATES["default"]) == [tokenizer.bos, *tokenizer.encode("plain")]


def test_an_output_that_ends_itself_ends_once(tmp_path):
    tokenizer = folder(tmp_path, TEMPLATE)
    example = encode(Row("t", "q", "", "sky</s>", "sky"), tokenizer, TEMPLATES["default"], 100)
    assert example.tokens.tolist().count(tokenizer.eos) == 1


FAILING = ("{{ raise_exception('never') }}", "{% for %}", "{{ messages.__class__.__mro__[1].__subclasses__() }}")


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_or_breaks_out_is_one_line(tmp_path, template):
    with pytest.raises(UserError, match=r"chat template of .* fails .*--chat_template=False"):
        folder(tmp_path, template).chat_template.render(ROW.messages)


def test_ids_beyond_the_pieces_decode_to_the_unknown_one(tmp_path):
    for name in ("tokenizer.model",):
        shutil.copy(SOURCE / name, tmp_path / name)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("a clear day")
    assert tokenizer.decode([*ids, tokenizer.vocab_size + 7]).startswith("a clear day")


@pytest.mark.parametrize(
    ("form", "prompt"), [("instruction", None), ("prompt", "hi"), ("chat", "### User:"), ("pair", None)]
)
def test_what_is_typed_is_asked_in_the_form_that_was_trained(form, prompt):
    row = question("t", "hi", form)
    assert (row.prompt or "").startswith(prompt or "")
    assert bool(row.messages) == (form == "chat")
    assert row.instruction == ("t: hi" if form == "pair" else "hi")

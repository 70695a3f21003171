"""Folders of Llamas: read whole or refused, written with all that their base's had, over nothing that is needed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mtlora_jax.convert.language import llama
from mtlora_jax.convert.llama_folder import token_ids, write_folder
from mtlora_jax.convert.out import check_out
from mtlora_jax.convert.peft import CONFIG, check_known, openable
from mtlora_jax.errors import UserError
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.text.llama import Llama, init
from mtlora_jax.text.llama_weights import open_llama, read_spec
from mtlora_jax.text.rope import RopeScaling
from mtlora_jax.weights.fingerprint import fingerprint

DATA = Path(__file__).parents[1] / "data"
BASE = DATA / "tiny_llama_base"
TOKENIZER = DATA / "tiny_sp_tokenizer"


@pytest.fixture
def base(tmp_path):
    """A base with all that people's folders have beside weights."""
    folder = shutil.copytree(BASE, tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        shutil.copy(TOKENIZER / name, folder / name)
    config = json.loads((folder / "config.json").read_text())
    config |= {"eos_token_id": [2, 7], "bos_token_id": 1, "my_own_key": "kept"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], "temperature": 0.6}))
    return folder


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors), path, {"format": "pt"})


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def write(base, out, **more):
    model, variables = llama(base)
    return write_folder(out, model.spec, variables["params"], base, load_tokenizer(base), None, **more)


def test_a_written_folder_has_all_that_the_base_had(base, tmp_path):
    names = write(base, tmp_path / "out")
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", base))
    assert {key: config[key] for key in own if "dtype" not in key} == {
        key: own[key] for key in own if "dtype" not in key
    }
    assert config["pad_token_id"] == load_tokenizer(base).pad
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([2, 7], 0.6)
    assert {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"} <= set(names)
    assert load_tokenizer(tmp_path / "out").encode("a clear day") == load_tokenizer(base).encode("a clear day")
    again, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(again[name], tensor, strict=True)


def test_our_end_of_text_ends_generation_elsewhere_too():
    tokenizer = load_tokenizer(TOKENIZER)
    assert token_ids({"eos_token_id": [5, 9]}, tokenizer)["eos_token_id"] == [5, 9, tokenizer.eos]
    assert token_ids({"eos_token_id": tokenizer.eos}, tokenizer)["eos_token_id"] == tokenizer.eos
    assert token_ids({}, tokenizer)["eos_token_id"] == tokenizer.eos
    assert token_ids({"pad_token_id": 0}, None) == {"pad_token_id": 0}


def test_nothing_is_written_over_a_base_or_other_weights(base, tmp_path):
    for out in (base, base.parent):
        with pytest.raises(UserError, match="is, or holds, the base"):
            check_out(out, True, base)
    write(base, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds model.safetensors already: .*--overwrite"):
        check_out(tmp_path / "out", False, base)
    check_out(tmp_path / "out", True, base)
    check_out(tmp_path / "new", False, base)


def test_old_shards_and_indices_do_not_stay_beside_new_files(base, tmp_path):
    out = tmp_path / "out"
    write(base, out, shard=20000)
    assert len(list(out.glob("model-*"))) > 1
    (out / "notes.txt").write_text("mine")
    write(base, out)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"
    write(base, out, shard=20000)
    assert not (out / "model.safetensors").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert dict(open_llama(out)[1]).keys() == dict(open_llama(base)[1]).keys()


def test_every_tensor_keeps_its_own_dtype(base, tmp_path):
    def mixed(tensors):
        half = ("layers.0.self_attn", "embed_tokens")
        return {n: x.astype(ml_dtypes.bfloat16) if any(h in n for h in half) else x for n, x in tensors.items()}

    rewrite(base, mixed)
    _, leaves = open_llama(base)
    # Layers of two dtypes are held in one that rounds neither.
    assert leaves["params/layers/self_attn/q_proj/kernel"].dtype == np.float32
    from mtlora_jax.weights.safetensors import open_folder

    dtypes = open_folder(base).dtypes()
    write(base, tmp_path / "out", dtypes=dtypes)
    assert open_folder(tmp_path / "out").dtypes() == dtypes
    theirs, again = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(again[name].view(np.uint8), tensor.view(np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.float8_e4m3fn])
def test_quantised_weights_are_named_and_refused(base, dtype):
    rewrite(base, lambda tensors: {n: x.astype(dtype) if "q_proj" in n else x for n, x in tensors.items()})
    with pytest.raises(UserError, match=r"q_proj.weight is stored as .* a quantised model is not read"):
        open_llama(base)


def test_a_config_that_says_quantised_is_refused(base):
    configure(base, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UserError, match=r"config\.json: the model is quantised \(bitsandbytes\)"):
        read_spec(base)


def test_what_a_folder_lacks_is_said(base):
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"holds model-00001-of-00002\.safetensors and more, but not .*index"):
        open_llama(base)
    (base / "model-00001-of-00002.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds pytorch_model\.bin; models are read from safetensors"):
        open_llama(base)


def test_a_tied_head_that_differs_is_not_dropped(base):
    configure(base, tie_word_embeddings=True)
    rewrite(base, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1})
    with pytest.raises(UserError, match=r"lm_head.weight differs from it"):
        open_llama(base)
    rewrite(base, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    assert open_llama(base)[0].tied


def test_a_fingerprint_tells_heads_and_rotary_settings_apart(base):
    from mtlora_jax.text.source import identity

    spec = read_spec(base)
    tree = {"w": np.zeros(3)}
    others = [replace(spec, rope_theta=5e5), replace(spec, rope_scaling=RopeScaling("linear")), replace(spec, heads=2)]
    assert len({fingerprint(tree, identity(s)) for s in (spec, *others)}) == 4


def test_dynamic_scaling_goes_by_each_texts_own_length(base):
    """Not by what it is padded to, packed with, or cached in."""
    spec = replace(read_spec(base), rope_scaling=RopeScaling("dynamic", 4.0, original=6), max_positions=6)
    model = Llama(spec)
    variables = init(model, 0)
    long, short = np.arange(10)[None] % spec.vocab_size, np.arange(4)[None] % spec.vocab_size
    alone = {len(t[0]): model.apply(variables, t) for t in (long, short)}
    plain = Llama(replace(spec, rope_scaling=None)).apply(variables, short)
    np.testing.assert_allclose(alone[4], plain, atol=1e-6)
    assert np.abs(alone[10] - Llama(replace(spec, rope_scaling=None)).apply(variables, long)).max() > 1e-4
    packed = np.concatenate([long, short, np.zeros((1, 3), int)], axis=1)
    segments = np.array([[1] * 10 + [2] * 4 + [0] * 3])
    together = model.apply(variables, packed, segment_ids=segments)
    np.testing.assert_allclose(together[:, :10], alone[10], atol=1e-5)
    np.testing.assert_allclose(together[:, 10:14], alone[4], atol=1e-5)
    left = np.concatenate([np.zeros((1, 6), int), short], axis=1)
    padded = model.apply(variables, left, attention_mask=jnp.array([[0] * 6 + [1] * 4]))
    np.testing.assert_allclose(padded[:, 6:], alone[4], atol=1e-5)
    positions, mask = jnp.arange(4)[None], jnp.pad(jnp.tril(jnp.ones((1, 4, 4), bool)), ((0, 0), (0, 0), (0, 60)))
    states, _ = model.apply(variables, short, positions, mask, model.empty_cache(1, 64), method="extend")
    np.testing.assert_allclose(model.apply(variables, states, method="head"), alone[4], atol=1e-5)


def test_dynamic_scaling_reads_the_length_that_transformers_reads(base):
    scaling = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 3}
    configure(base, rope_scaling=scaling, max_position_embeddings=64)
    assert read_spec(base).rope_scaling.original == 64


# --- folders of peft


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "init_lora_weights": True, "use_dora": False}


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"alora_invocation_tokens": [1]},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 2]]},
        {"trainable_token_indices": [5]},
        {"target_parameters": ["x"]},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"use_qalora": True},
        {"a_key_of_next_year": "something"},
        {"peft_type": "IA3"},
        {"r": 0},
        {"r": "many"},
    ],
)
def test_what_would_change_the_function_is_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        check_known(PLAIN | change, Path(CONFIG))


def test_what_changes_nothing_is_passed_over():
    neutral = {"rank_pattern": {}, "modules_to_save": None, "lora_dropout": 0.1, "target_modules": ["q_proj"]}
    check_known(PLAIN | neutral | {"init_lora_weights": "gaussian", "a_key_of_next_year": None}, Path(CONFIG))


def test_an_export_names_a_base_that_peft_can_open(base, monkeypatch, tmp_path):
    monkeypatch.chdir(base.parent)
    assert openable("base") == str(base.resolve())
    assert openable("meta-llama/Llama-2-7b-hf") == "meta-llama/Llama-2-7b-hf"
    assert (Path(openable("microworld")) / "config.json").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "mtlora_jax.text.config:TextConfig"}')
    for nothing in ("nowhere", str(tmp_path / "run")):
        with pytest.raises(UserError, match="peft can open no base"):
            openable(nothing)

"""BART against transformers' and the reference's outputs; its searches; and what must hold of any such model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vl

from mtlora_jax.adapters import LoRA
from mtlora_jax.convert import bart
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import Bart, BartSpec, init
from mtlora_jax.image_text.bart_weights import open_bart, read_spec, save_bart, spec_of
from mtlora_jax.image_text.decode import Search, beams, generate, repeats
from mtlora_jax.image_text.visual import VisualSpec

IO = np.load(vl.BASE / "io.npz")
TINY = BartSpec(40, 16, 2, 2, 2, 2, 24, 24, 32, visual=VisualSpec(features=6, tokens=4))


@pytest.fixture(scope="module")
def text():
    return bart(vl.BASE)


def encoded(model, variables, *args, **more):
    return model.apply(variables, *args, method="encode", **more)


def test_the_text_model_gives_transformers_logits(text):
    model, variables = text
    logits = model.apply(variables, IO["input_ids"], targets=IO["labels"], attention_mask=IO["attention_mask"])
    np.testing.assert_allclose(logits, IO["logits"], atol=1e-4)
    alone = model.apply(variables, IO["input_ids"][:1], decoder_input_ids=IO["decoder_input_ids"][:1])
    np.testing.assert_allclose(alone, IO["full_row0_logits"], atol=1e-4)


SEARCHES = {
    "beam": Search(5, no_repeat=0, early_stopping=False, force_eos=False),
    "beam_lp2": Search(5, no_repeat=0, early_stopping=False, force_eos=False, length_penalty=2.0),
    "beam_bart": Search(5, force_bos=True),
    "beam_bart_ml6": Search(5, max_length=6, force_bos=True),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_beams_give_transformers_texts_and_scores(text, name):
    model, variables = text
    states, mask = encoded(model, variables, IO["input_ids"], attention_mask=IO["attention_mask"])
    ids, scores = beams(model, variables, states, mask, None, SEARCHES[name])
    expected = IO[f"{name}_ids"]
    np.testing.assert_array_equal(ids, expected[..., : ids.shape[-1]])
    assert (expected[..., ids.shape[-1] :] == model.spec.pad).all()
    np.testing.assert_allclose(scores, IO[f"{name}_scores"], atol=1e-4)


@pytest.mark.parametrize(("name", "no_repeat"), [("greedy", 0), ("greedy_norepeat3", 3)])
def test_greedy_texts_are_transformers(text, name, no_repeat):
    model, variables = text
    states, mask = encoded(model, variables, IO["input_ids"], attention_mask=IO["attention_mask"])
    ids = generate(model, variables, states, mask, None, Search(no_repeat=no_repeat))
    np.testing.assert_array_equal(ids, IO[f"{name}_ids"])


def test_a_pair_of_beams_of_a_mixed_batch_are_those_of_each_task():
    model, variables = vl.model(adapted=True)
    ids, features, _, _ = vl.inputs("vqa")
    task_id, search = np.array([0, 1, 2, 3], np.int32), Search(2, max_length=8)
    states, mask = encoded(model, variables, ids, features, None, task_id)
    together = generate(model, variables, states, mask, task_id, search)
    for row in range(4):
        alone = generate(model, variables, states[row : row + 1], mask[row : row + 1], task_id[row : row + 1], search)
        np.testing.assert_array_equal(together[row], alone[0])


def test_repeated_ngrams_are_blocked():
    ids = jnp.array([[5, 1, 2, 3, 1, 2, 0, 0], [5, 1, 1, 1, 1, 9, 0, 0]])
    assert np.flatnonzero(repeats(ids, 6, 3, 12)[0]).tolist() == [3]
    assert np.flatnonzero(repeats(ids, 5, 2, 12)[1]).tolist() == [1]
    assert not repeats(ids, 1, 3, 12).any()
    assert np.flatnonzero(repeats(ids, 3, 1, 12)[0]).tolist() == [1, 2, 5]


def tiny(**changes):
    model = Bart(TINY, **changes)
    variables = jax.jit(lambda: init(model, 0))()
    rng = np.random.default_rng(0)
    return model, variables, rng.integers(3, 40, (3, 5)), rng.normal(size=(3, 2, 9, 6)), rng.integers(3, 40, (3, 4))


def test_padding_and_pictures_that_are_not_there_change_nothing():
    model, variables, ids, features, targets = tiny()
    apply = jax.jit(lambda *args, **more: model.apply(variables, *args, **more))
    one = apply(ids, features[:, :1], None, targets)
    padded = np.concatenate([ids, np.full((3, 3), TINY.pad)], axis=1)
    mask = np.repeat([[True, False]] * 3, 4, axis=1)
    both = apply(padded, features, None, targets, visual_mask=mask)
    np.testing.assert_allclose(one, both, atol=1e-5)


def test_adapters_change_no_base_leaf_and_nothing_when_fresh():
    model, variables, ids, features, targets = tiny()
    adapted = model.clone(adapters=(("self_attn/q_proj", LoRA(2)), ("fc1", LoRA(2))))
    fresh = jax.jit(lambda: init(adapted, 0))()
    jax.tree.map(np.testing.assert_array_equal, fresh["params"], variables["params"])
    sides = {side: set(of["layers"]) for side, of in fresh["lora"].items()}
    assert sides == {"encoder": {"self_attn", "fc1"}, "decoder": {"self_attn", "fc1"}}
    plain, with_adapters = (m.apply(v, ids, features, None, targets) for m, v in ((model, variables), (adapted, fresh)))
    np.testing.assert_allclose(plain, with_adapters, atol=1e-6)


def test_remat_gives_the_same_gradients():
    model, variables, ids, features, targets = tiny()

    def gradients(model):
        return jax.jit(jax.grad(lambda v: model.apply(v, ids, features, None, targets).std()))(variables)

    ours = gradients(model)
    for remat in ("full", "dots"):
        same = jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, gradients(model.clone(remat=remat))
        )
        assert same is not None


def test_dropout_is_drawn_from_its_key_and_only_while_training():
    model, variables, ids, features, targets = tiny()

    @jax.jit
    def apply(key):
        return model.apply(variables, ids, features, None, targets, train=True, rngs={"dropout": key})

    a, b = apply(jax.random.key(0)), apply(jax.random.key(1))
    np.testing.assert_array_equal(a, apply(jax.random.key(0)))
    assert np.abs(a - b).max() > 1e-3
    still = model.apply(variables, ids, features, None, targets)
    np.testing.assert_array_equal(still, model.apply(variables, ids, features, None, targets))


def test_a_folder_comes_back_as_it_was_written(text, tmp_path):
    model, variables = text
    save_bart(tmp_path, model.spec, variables["params"])
    spec, leaves = open_bart(tmp_path)
    assert spec == model.spec
    for path in leaves:
        node = variables
        for part in path.split("/"):
            node = node[part]
        np.testing.assert_array_equal(leaves[path], node)


def test_facebook_s_own_names_are_read(tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(vl.BASE / "model.safetensors")
    bare = {name.removeprefix("model."): x for name, x in tensors.items() if name != "final_logits_bias"}
    save_file({**bare, "encoder.embed_tokens.weight": bare["shared.weight"].copy()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((vl.BASE / "config.json").read_text())
    model, variables = bart(tmp_path)
    logits = model.apply(variables, IO["input_ids"], targets=IO["labels"], attention_mask=IO["attention_mask"])
    np.testing.assert_allclose(logits, IO["logits"] - tensors["final_logits_bias"], atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "mbart", "mbart"),
        ("normalize_before", True, "normalize_before"),
        ("activation_function", "relu", "relu"),
        ("encoder_attention_heads", 5, "5 heads do not divide"),
        ("d_model", None, "d_model"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, key, value, said):
    config = {name: of for name, of in vl.CONFIG.items() if name != key} | ({} if value is None else {key: value})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        read_spec(tmp_path)


def test_sizes_of_bart_base():
    spec = spec_of(
        {**vl.CONFIG, "vocab_size": 50265, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6}
        | {"encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072}
        | {"decoder_ffn_dim": 3072, "max_position_embeddings": 1024}
    )
    assert spec == BartSpec(attention_dropout=0.1, activation_dropout=0.1)
    shapes = jax.eval_shape(lambda: init(Bart(spec), 0))["params"]
    # facebook/bart-base has 139,420,416 weights, beside the buffer of the head's bias.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 139_420_416 + 50265

"""The decoder: shapes, rotary scalings, segments that see nothing of each other, and folders written and read."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mtlora_jax.adapters import MTLLoRA
from mtlora_jax.convert import llama
from mtlora_jax.engine.init import draw
from mtlora_jax.engine.tables import count, flatten
from mtlora_jax.errors import UserError
from mtlora_jax.language.attention import positions_of
from mtlora_jax.language.decode import greedy
from mtlora_jax.text.llama import Llama, LlamaSpec, init
from mtlora_jax.text.llama_weights import config_of, open_llama, read_spec, save_llama, spec_of
from mtlora_jax.text.rope import RopeScaling, inverse_frequencies
from mtlora_jax.weights import safetensors

DATA = Path(__file__).parents[1] / "data"
SPEC = LlamaSpec(vocab_size=40, hidden=16, intermediate=24, layers=3, heads=4, kv_heads=2)
ADAPTERS = (("self_attn/[qv]_proj|mlp/up_proj", MTLLoRA(("a", "b"), rank=2, dropout=0.2)),)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 9))
IDS = np.array([0, 1])


@pytest.fixture(scope="module")
def variables():
    found = init(Llama(SPEC, ADAPTERS), 0)
    return {**found, "lora": jax.tree.map(lambda leaf: leaf + 0.2, found["lora"])}


# --- frequencies


@pytest.mark.parametrize(
    ("name", "head_dim", "theta", "scaling"),
    [
        ("llama2_7b", 128, 1e4, None),
        ("llama3_8b", 128, 5e5, None),
        ("llama31_8b", 128, 5e5, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)),
        ("llama32_1b", 64, 5e5, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)),
        ("tinyllama_1p1b", 64, 1e4, None),
        ("smollm2_135m", 64, 1e5, None),
    ],
)
def test_frequencies_are_those_of_published_models(name, head_dim, theta, scaling):
    expected = np.load(DATA / "llama_inv_freq_tables.npz")[name]
    np.testing.assert_allclose(inverse_frequencies(head_dim, theta, scaling), expected, rtol=1e-6)


def test_linear_and_dynamic_scaling():
    plain = inverse_frequencies(64, 1e4)
    np.testing.assert_allclose(inverse_frequencies(64, 1e4, RopeScaling("linear", 4.0)), plain / 4, rtol=1e-6)
    dynamic = RopeScaling("dynamic", 2.0, original=100)
    np.testing.assert_array_equal(inverse_frequencies(64, 1e4, dynamic, 100), plain)
    # Twice the length at factor 2: the base grows by 2 * 2 - 1 = 3, to the power of 64 / 62.
    expected = inverse_frequencies(64, 1e4 * 3 ** (64 / 62))
    np.testing.assert_allclose(inverse_frequencies(64, 1e4, dynamic, 200), expected, rtol=1e-6)


# --- shapes and draws


def test_base_weights_have_the_bits_of_a_model_without_adapters(variables):
    plain = draw(lambda: init(Llama(SPEC), 0))
    adapted = draw(lambda: init(Llama(SPEC, ADAPTERS), 0))
    assert {path for path in adapted if path.startswith("params/")} == set(plain)
    for path, leaf in plain.items():
        np.testing.assert_array_equal(adapted[path], leaf)
    kernel = plain["params/layers/mlp/up_proj/kernel"]
    assert kernel.shape == (3, 16, 24)
    assert (kernel[0] != kernel[1]).any()


def test_drawing_adapters_runs_no_layer():
    graph = jax.make_jaxpr(lambda: init(Llama(SPEC, ADAPTERS), 0)["lora"])()
    wanted = set(graph.jaxpr.outvars)
    used = set()
    for eqn in reversed(graph.jaxpr.eqns):
        if wanted & set(eqn.outvars):
            used.add(eqn.primitive.name)
            wanted |= {v for v in eqn.invars if not hasattr(v, "val")}
    assert "dot_general" not in used
    assert "scan" not in used


def test_adapters_sit_where_the_table_says(variables):
    found = {"/".join(path.split("/")[2:4]) for path in flatten({"lora": variables["lora"]})}
    assert found == {"self_attn/q_proj", "self_attn/v_proj", "mlp/up_proj"}
    with pytest.raises(ValueError, match="'z_proj' matches no projection"):
        init(Llama(SPEC, (("z_proj", ADAPTERS[0][1]),)), 0)


def test_the_first_row_that_is_found_counts():
    small, large = (MTLLoRA(("a",), rank=r) for r in (1, 5))
    leaves = init(Llama(SPEC, (("q_proj", small), ("self_attn", large))), 0)["lora"]["layers"]["self_attn"]
    assert {site: leaf["A"].shape[-1] for site, leaf in leaves.items()} == {"q_proj": 1} | dict.fromkeys(
        ("k_proj", "v_proj", "o_proj"), 5
    )


@pytest.mark.parametrize(
    ("spec", "total"),
    [
        (LlamaSpec(32000, 4096, 11008, 32, 32, 32), 6_738_415_616),
        (LlamaSpec(128256, 4096, 14336, 32, 32, 8), 8_030_261_248),
        (LlamaSpec(128256, 2048, 8192, 16, 32, 8, tied=True), 1_235_814_400),
        (LlamaSpec(32000, 2048, 5632, 22, 32, 4), 1_100_048_384),
        (LlamaSpec(49152, 576, 1536, 30, 9, 3, tied=True), 134_515_008),
    ],
)
def test_published_models_have_their_published_sizes(spec, total):
    assert count(jax.eval_shape(lambda: init(Llama(spec), 0))) == total


def test_remat_computes_the_same_and_keeps_less(variables):
    def loss(lora, remat):
        rngs, model = {"dropout": jax.random.key(5)}, Llama(SPEC, ADAPTERS, remat=remat)
        return model.apply({**variables, "lora": lora}, TOKENS, task_id=IDS, train=True, rngs=rngs).var()

    def kept(remat):
        pull = jax.eval_shape(lambda lora: jax.vjp(lambda x: loss(x, remat), lora)[1], variables["lora"])
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    kinds = ("none", "dots", "full")
    expected, *others = (jax.jit(jax.grad(loss), static_argnums=1)(variables["lora"], kind) for kind in kinds)
    for found in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    sizes = [kept(kind) for kind in kinds]
    assert sizes[0] > sizes[1] > sizes[2]


def test_of_a_layer_the_products_are_kept_and_what_lies_between_is_not(variables):
    """Of what has a row for every token: the layer's input, q, k, v, o, gate and up, and no norm, rotation, mask or
    activation. Attention's products have their axes in another order."""
    model = Llama(SPEC, ADAPTERS, dtype=jnp.bfloat16)
    rngs = {"dropout": jax.random.key(5)}

    def loss(lora):
        return model.apply({**variables, "lora": lora}, TOKENS, task_id=IDS, train=True, rngs=rngs).var()

    pull = jax.eval_shape(lambda lora: jax.vjp(loss, lora)[1], variables["lora"])
    (B, L), s = TOKENS.shape, SPEC
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(pull) if leaf.shape[:3] == (s.layers, B, L)]
    widths = sorted(width for shape in shapes if (width := int(np.prod(shape[2:]))) > 6)
    assert widths == [s.kv_heads * s.head_width] * 2 + [s.hidden] * 3 + [s.intermediate] * 2


def test_bfloat16_is_float32_rounded(variables):
    exact = Llama(SPEC, ADAPTERS).apply(variables, TOKENS, task_id=IDS)
    rounded = Llama(SPEC, ADAPTERS, dtype=jnp.bfloat16).apply(variables, TOKENS, task_id=IDS)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


# --- who sees whom


def test_positions_restart_with_every_segment_and_skip_padding():
    segments = jnp.array([[0, 0, 1, 1, 1], [1, 1, 2, 2, 0], [3, 3, 3, 1, 1]])
    assert positions_of(segments).tolist() == [[0, 0, 0, 1, 2], [0, 1, 0, 1, 0], [0, 1, 2, 0, 1]]


def test_packed_texts_get_what_they_get_alone(variables):
    model = Llama(SPEC, ADAPTERS)
    together = model.apply(
        variables,
        TOKENS.reshape(1, -1),
        segment_ids=np.repeat([[1, 2]], 9, 1),
        task_id=np.repeat([IDS], 9, 1),
    )
    alone = model.apply(variables, TOKENS, task_id=IDS)
    np.testing.assert_allclose(together.reshape(2, 9, -1), alone, atol=1e-5)


def test_no_gradient_crosses_segments_or_runs_back_in_time(variables):
    model, segments = Llama(SPEC), jnp.array([[1, 1, 1, 2, 2, 2, 0]])
    params = {"params": variables["params"]}

    def states(embedding, place):
        table = {**params["params"], "embed_tokens": {"embedding": embedding}}
        out = model.apply({"params": table}, jnp.arange(7)[None], segment_ids=segments, method="hidden")
        return out[0, place].sum()

    for place, seen in {0: {0}, 2: {0, 1, 2}, 3: {3}, 5: {3, 4, 5}}.items():
        gradient = jax.grad(states)(params["params"]["embed_tokens"]["embedding"], place)
        assert {i for i in range(7) if np.any(gradient[i])} == seen


# --- folders


@pytest.mark.parametrize("shard", [1 << 30, 4000])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_written_is_read_bit_for_bit(tmp_path, shard, dtype, tied):
    spec = LlamaSpec(40, 16, 24, 3, 4, 2, 8, 1e4, RopeScaling("llama3", original=64), tied=tied, qkv_bias=True)
    leaves = {path: np.asarray(leaf).astype(dtype) for path, leaf in draw(lambda: init(Llama(spec), 1)).items()}
    save_llama(tmp_path, spec, traverse_util.unflatten_dict(leaves, sep="/")["params"], shard)
    again, stored = open_llama(tmp_path)
    assert again == spec
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == 4000)
    assert set(stored) == set(leaves)
    for path, leaf in leaves.items():
        assert stored.shape(path) == leaf.shape
        assert stored[path].dtype == leaf.dtype
        np.testing.assert_array_equal(stored[path], leaf)


def test_a_missing_shard_and_a_damaged_index_are_one_line(tmp_path):
    leaves = init(Llama(SPEC), 0)["params"]
    save_llama(tmp_path, SPEC, leaves, shard=4000)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"model-00002-of-\d+.safetensors is missing"):
        open_llama(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="is not an index"):
        open_llama(tmp_path)


def test_reading_a_model_leaf_by_leaf_never_holds_it_twice(tmp_path):
    spec = LlamaSpec(512, 256, 512, 8, 4, 4)
    shapes = flatten(jax.eval_shape(lambda: init(Llama(spec), 0)))
    leaves = {path: np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
    save_llama(tmp_path, spec, traverse_util.unflatten_dict(leaves, sep="/")["params"])
    size = sum(leaf.nbytes for leaf in leaves.values())
    del leaves
    _, stored = open_llama(tmp_path)
    tracemalloc.start()
    held = [stored[path] for path in stored]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(leaf.nbytes for leaf in held) == size
    assert peak < 1.15 * size


def test_shapes_of_other_families():
    base = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert spec_of({**base, "model_type": "qwen2"}).qkv_bias
    assert not spec_of({**base, "model_type": "qwen2"}).o_bias
    assert spec_of({**base, "attention_bias": True}).o_bias
    assert spec_of(base).kv_heads == 2
    assert spec_of({**base, "rope_scaling": {"type": "linear", "factor": 2}}).rope_scaling == RopeScaling(
        "linear", 2.0, original=2048
    )
    assert spec_of({**base, "model_type": "mistral", "sliding_window": 16}).window == 16
    assert spec_of({**base, "model_type": "mistral", "sliding_window": None}).window == 0
    assert spec_of({**base, "model_type": "mistral"}).window == 4096  # as transformers takes it
    with pytest.raises(ValueError, match="sliding window"):
        spec_of({**base, "model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True})


def test_configs_that_are_missing_or_broken_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 3}))
    with pytest.raises(UserError, match=r"config\.json: hidden_size is missing"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"layers": 0}, "layers must be at least 1"),
        ({"kv_heads": 3}, "4 heads cannot share 3"),
        ({"hidden": 18}, "do not divide"),
        ({"head_dim": 5}, "even width"),
    ],
)
def test_impossible_shapes_are_said_to_be(change, problem):
    assert problem in LlamaSpec(**{**SPEC.__dict__, **change}).problems()
    assert SPEC.problems() is None


# --- other families, as transformers computes them


def family(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes a family's model of two layers as a folder; gives its inputs and outputs."""
    with np.load(DATA / "families.npz") as file:
        found = {key.partition(".")[2]: file[key] for key in file if key.startswith(f"{name}.")}
        weights = {key.partition("/")[2]: file[key] for key in file if key.startswith(f"{name}/")}
    (folder / "config.json").write_text(str(found.pop("config")))
    safetensors.write(folder / "model.safetensors", weights, {})
    return found


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_other_families_are_computed_exactly(name, tmp_path):
    wanted = family(name, tmp_path)
    model, variables = llama(tmp_path)
    assert (model.spec.qk_norm, model.spec.window) == ((True, 0) if name == "qwen3" else (False, 5))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
    tokens, mask = wanted["tokens"], wanted["mask"]
    got = model.apply(variables, tokens, attention_mask=mask)
    there = mask.astype(bool)
    np.testing.assert_allclose(got[there], wanted["logits"][there], atol=1e-4)
    written = greedy(model, variables, tokens, mask, max_new_tokens=12, eos=-1)
    np.testing.assert_array_equal(written, wanted["generated"])


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_other_families_are_written_as_they_were_read(name, tmp_path):
    family(name, tmp_path)
    spec, stored = open_llama(tmp_path)
    params = traverse_util.unflatten_dict(dict(stored), sep="/")["params"]
    save_llama(tmp_path / "again", spec, params)
    assert read_spec(tmp_path / "again") == spec
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == name
    a, b = (safetensors.read(folder / "model.safetensors")[0] for folder in (tmp_path, tmp_path / "again"))
    assert a.keys() == b.keys()
    assert all((a[key] == b[key]).all() for key in a)


def test_a_window_holds_in_packed_rows_and_across_blocks(tmp_path):
    """Texts one after the other in a row see what each would see alone."""
    wanted = family("mistral", tmp_path)
    model, variables = llama(tmp_path)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
    tokens = wanted["tokens"][:1]
    alone = model.apply(variables, tokens)[0]
    row, ids = np.concatenate([tokens, tokens], axis=1), np.repeat([[1, 2]], 17, axis=1)
    for reach in (0, 17):
        got = model.clone(reach=reach).apply(variables, row, segment_ids=ids)[0]
        np.testing.assert_allclose(got, np.concatenate([alone, alone]), atol=1e-5)


def test_a_shape_that_no_family_has_is_not_written_as_another():
    with pytest.raises(UserError, match="as mistral its qkv_bias would differ"):
        config_of(replace(SPEC, window=4, qkv_bias=True), "float32")
    with pytest.raises(UserError, match="mlp_bias"):
        config_of(replace(SPEC, qkv_bias=True, mlp_bias=True), "float32")

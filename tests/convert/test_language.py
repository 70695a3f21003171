"""Language models of other libraries: the reference's function, gradients, tokens and training, and bad files."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from mtlora_jax.config import Optim
from mtlora_jax.convert import llama, mtl_lora_reference, to_mtl_lora_reference
from mtlora_jax.engine.optim import make_optimizer, schedule
from mtlora_jax.errors import UserError
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.text.workload import forward, sums, total
from mtlora_jax.weights import torch_pickle_write as pth_write

DATA = Path(__file__).parents[1] / "data"
BASE = DATA / "tiny_llama_base"
COMMON = {"r": 4, "lora_alpha": 8, "n_tasks": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
CASES = {
    "mtl_lora_llama_qkvo": COMMON | {"n_up": 3, "tau": 0.1, "diagonal": False},
    "mtl_lora_llama_qkvo_diag": COMMON | {"n_up": 3, "tau": 0.5, "diagonal": True},
    "moelora_llama_qkvo": COMMON | {"r": 8, "lora_alpha": 16, "expert_num": 4, "task_embedding_dim": 8},
}
INPUTS = np.load(BASE / "io.npz")


@cache
def converted(name):
    with jax.ensure_compile_time_eval():
        return mtl_lora_reference(BASE, load_file(DATA / f"{name}.safetensors"), CASES[name])


@cache
def golden(name):
    return np.load(DATA / f"{name}.npz")


@pytest.mark.parametrize("name", ["base", "rope3", "tied"])
def test_plain_models_give_the_reference_s_logits_and_tokens(name):
    folder = DATA / f"tiny_llama_{name}"
    model, variables = llama(folder)
    io = np.load(folder / "io.npz")
    apply = jax.jit(lambda tokens, mask: model.apply(variables, tokens, attention_mask=mask))
    np.testing.assert_allclose(model.apply(variables, io["full_ids"]), io["full_logits"], atol=1e-4)
    for side in ("right", "left"):
        mask = io[f"{side}_mask"]
        np.testing.assert_allclose(
            apply(io[f"{side}_ids"], mask)[mask == 1], io[f"{side}_logits"][mask == 1], atol=1e-4
        )
    out = greedy(model, variables, io["left_ids"], io["left_mask"], max_new_tokens=16, eos=-1)
    np.testing.assert_array_equal(out, io["gen_tokens"])


@pytest.mark.parametrize("name", CASES)
def test_adapted_models_give_the_reference_s_logits(name):
    model, variables = converted(name)
    io, expected = INPUTS, golden(name)
    ids = {"full": expected["full_task_ids"], "right": expected["task_ids"], "left": expected["task_ids"]}
    for side, task_id in ids.items():
        mask = io[f"{side}_mask"] if side != "full" else np.ones_like(io["full_ids"])
        logits = model.apply(variables, io[f"{side}_ids"], attention_mask=mask, task_id=task_id)
        np.testing.assert_allclose(logits[mask == 1], expected[f"{side}_logits"][mask == 1], atol=1e-4)
        per_token = np.broadcast_to(task_id[:, None], mask.shape)
        again = model.apply(variables, io[f"{side}_ids"], attention_mask=mask, task_id=per_token)
        np.testing.assert_allclose(again[mask == 1], logits[mask == 1], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_adapted_models_write_the_reference_s_tokens(name):
    model, variables = converted(name)
    task_id = golden(name)["task_ids"].astype(np.int32)
    out = greedy(model, variables, INPUTS["left_ids"], INPUTS["left_mask"], task_id, max_new_tokens=16, eos=-1)
    np.testing.assert_array_equal(out, golden(name)["gen_tokens"])


def batch_of(tokens, mask, labels, task_id):
    targets = np.pad(labels, ((0, 0), (0, 1)), constant_values=-100)[:, 1:]
    tasks = [f"task{i}" for i in range(4)]
    return {
        "tokens": tokens.astype(np.int32),
        "targets": targets.astype(np.int32),
        "segment_ids": mask.astype(np.int32),
        "task_id": task_id.astype(np.int32),
        "valid": {task: np.ones(len(tokens), bool) for task in tasks},
    }


def loss_of(model, lora, params, batch):
    outputs, _ = forward(model, {"params": params, "lora": lora}, batch, None)
    tasks = tuple(batch["valid"])
    return total(dict.fromkeys(tasks, 1.0), {}, sums(tasks, outputs, batch))


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_reference_s(name):
    model, variables = converted(name)
    expected = golden(name)
    batch = batch_of(*(INPUTS[f"right_{key}"] for key in ("ids", "mask", "labels")), expected["task_ids"])
    value_and_grad = jax.jit(jax.value_and_grad(lambda lora: loss_of(model, lora, variables["params"], batch)))
    loss, gradient = value_and_grad(variables["lora"])
    assert loss == pytest.approx(float(expected["right_loss"]), rel=1e-5)
    found = to_mtl_lora_reference(model, {"lora": gradient})
    names = [key.removeprefix("grad:") for key in expected.files if key.startswith("grad:")]
    assert names
    for key in names:
        scale = np.abs(expected[f"grad:{key}"]).max()
        np.testing.assert_allclose(found[key], expected[f"grad:{key}"], rtol=1e-4, atol=1e-4 * scale, err_msg=key)


@pytest.mark.slow
def test_ten_steps_of_adamw_end_where_the_reference_s_end():
    stored, expected = load_file(DATA / "mtl_lora_llama_train10.safetensors"), golden("mtl_lora_llama_train10")
    begin, end = (
        {key.removeprefix(kind): value for key, value in stored.items() if key.startswith(kind)}
        for kind in ("init:", "final:")
    )
    model, variables = mtl_lora_reference(BASE, begin, CASES["mtl_lora_llama_qkvo"])
    optim = Optim(lr=0.01, schedule="linear", warmup_steps=2, weight_decay=0.0, clip_norm=1.0, absent_tasks="step")
    optimizer = make_optimizer(optim, schedule(optim, 10), jax.tree.map(lambda leaf: "decay", variables["lora"]))

    @jax.jit
    def step(lora, state, batch):
        loss, grads = jax.value_and_grad(lambda lora: loss_of(model, lora, variables["params"], batch))(lora)
        updates, state = optimizer.update(grads, state, lora, present={})
        return optax.apply_updates(lora, updates), state, loss, optax.tree.norm(grads)

    lora = jax.tree.map(jnp.asarray, variables["lora"])
    state = optimizer.init(lora)
    for i in range(10):
        batch = batch_of(*(expected[key][i] for key in ("input_ids", "attention_mask", "labels", "task_ids")))
        lora, state, loss, norm = step(lora, state, batch)
        assert float(loss) == pytest.approx(float(expected["losses"][i]), rel=1e-4)
        assert float(norm) == pytest.approx(float(expected["grad_norms"][i]), rel=1e-3)
    found = to_mtl_lora_reference(model, {"lora": lora})
    assert set(found) == set(end)
    for key, value in end.items():
        # Where a true gradient is next to nothing, Adam makes a step of its rounding.
        apart = np.abs(found[key] - value)
        assert apart.max() < 1e-3, key
        assert np.mean(apart > 2e-5) < 0.05, key


@pytest.mark.parametrize("name", CASES)
def test_adapters_go_back_bit_for_bit_through_a_torch_file(name, tmp_path):
    state = load_file(DATA / f"{name}.safetensors")
    model, variables = converted(name)
    back = to_mtl_lora_reference(model, variables)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
    pth_write.write(tmp_path / "final_checkpoint.pt", back, container=None)
    again = mtl_lora_reference(BASE, tmp_path / "final_checkpoint.pt", CASES[name])[1]
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_a_batch_of_mixed_tasks_gives_each_example_what_it_gets_alone():
    model, variables = converted("mtl_lora_llama_qkvo")
    tokens, task_id = INPUTS["full_ids"], np.array([2, 0])
    together = model.apply(variables, tokens, task_id=task_id)
    for row in range(2):
        alone = model.apply(variables, tokens[row : row + 1], task_id=task_id[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_decoding_with_a_cache_is_recomputing_everything():
    model, variables = converted("mtl_lora_llama_qkvo")
    prompts, task_id = [[5, 9, 77], [3], [200, 8, 8, 8, 61]], np.array([1, 3, 0], np.int32)
    tokens, mask = pad_left(prompts, 0, multiple=8)
    out = np.asarray(greedy(model, variables, tokens, mask, task_id, max_new_tokens=6, eos=-1))
    whole = [prompt + written.tolist() for prompt, written in zip(prompts, out, strict=True)]
    tokens, mask = pad_left(whole, 0, multiple=16)
    logits = model.apply(variables, tokens, attention_mask=mask, task_id=task_id)
    np.testing.assert_array_equal(logits[:, -7:-1].argmax(-1), out)


def test_decoding_stops_at_the_end_of_a_text():
    model, variables = converted("mtl_lora_llama_qkvo")
    tokens, mask = pad_left([[5, 9, 77], [3]], 0, multiple=8)
    task_id = np.zeros(2, np.int32)
    free = np.asarray(greedy(model, variables, tokens, mask, task_id, max_new_tokens=6, eos=-1))
    eos = int(free[0, 2])
    out = np.asarray(greedy(model, variables, tokens, mask, task_id, max_new_tokens=6, eos=eos))
    first = free[0].tolist().index(eos)
    assert out[0].tolist() == free[0, :first].tolist() + [eos] * (6 - first)
    # A model may know several ends, as transformers' generation settings list them.
    out = np.asarray(greedy(model, variables, tokens, mask, task_id, max_new_tokens=6, eos=-1, stops=(eos,)))
    assert out[0].tolist() == [*free[0, : first + 1].tolist(), *[-1] * (5 - first)]


# --- what a user can get wrong


def bad(change, hyper=None):
    state = dict(load_file(DATA / "mtl_lora_llama_qkvo.safetensors"))
    change(state)
    return mtl_lora_reference(BASE, state, CASES["mtl_lora_llama_qkvo"] | (hyper or {}))


KEY = "model.layers.0.self_attn.q_proj.lora_A"


@pytest.mark.parametrize(
    ("change", "hyper", "message"),
    [
        (lambda s: s.pop(KEY), {}, f"lacks {KEY}"),
        (
            lambda s: s.update({"model.layers.9.lora_A": s[KEY]}),
            {},
            "has keys that the model does not: model.layers.9.lora_A",
        ),
        (lambda s: s.update({KEY: s[KEY][:, :2]}), {}, r"q_proj.lora_A has shape \(1, 2, 64\), .* \(1, 4, 64\)"),
        (lambda s: None, {"r": 8}, "has shape"),
        (lambda s: None, {"tau": 0.0}, "temperature must be above 0, not 0.0"),
        (lambda s: None, {"target_modules": ["q_proj", "x_proj"]}, "names 'x_proj'"),
        (lambda s: None, {"target_modules": ["q_proj"]}, "target_modules q_proj, has keys that the model does not"),
        (lambda s: None, {"target_modules": []}, "target_modules is empty"),
        (lambda s: None, {"n_tasks": 3}, r"does not: .*lora_lambdas\[3\]"),
    ],
)
def test_files_and_hyper_parameters_that_do_not_fit_are_one_line(change, hyper, message):
    with pytest.raises(UserError, match=message):
        bad(change, hyper)


def test_a_missing_hyper_parameter_is_named():
    with pytest.raises(UserError, match="hyper lacks tau"):
        mtl_lora_reference(BASE, {}, {k: v for k, v in CASES["mtl_lora_llama_qkvo"].items() if k != "tau"})


def test_a_task_id_out_of_range_is_no_other_task():
    model, variables = converted("mtl_lora_llama_qkvo")
    logits = model.apply(variables, INPUTS["full_ids"], task_id=np.array([4, -1]))
    assert np.isnan(logits).all()
    with pytest.raises(ValueError, match="task_id"):
        model.apply(variables, INPUTS["full_ids"])


def folder_with(tmp_path, **config):
    for file in BASE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = json.loads((BASE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | config))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn'"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key heads"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2"),
        ({"num_hidden_layers": 1}, "has keys that the model does not: model.layers.1"),
        ({"tie_word_embeddings": False, "vocab_size": 255}, r"embed_tokens.weight has shape \(256, 64\).*\(255, 64\)"),
    ],
)
def test_a_folder_that_is_not_what_its_config_says_is_one_line(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        llama(folder_with(tmp_path, **config))


def test_truncated_weights_are_one_line(tmp_path):
    folder = folder_with(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is truncated, damaged, or not a safetensors file"):
        llama(folder)
    file.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        llama(folder)
    with pytest.raises(UserError, match="there is no folder"):
        llama(tmp_path / "nowhere")


def test_both_forms_of_a_config_are_the_same_shape(tmp_path):
    four = llama(DATA / "tiny_llama_rope3")[0].spec
    stored = json.loads((DATA / "tiny_llama_rope3" / "config.json").read_text())
    scaling = stored.pop("rope_scaling") | {"rope_theta": stored.pop("rope_theta")}
    stored["rope_parameters"] = scaling
    for file in (DATA / "tiny_llama_rope3").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert llama(tmp_path)[0].spec == four


def test_leaves_of_a_base_are_at_the_paths_of_a_plain_model():
    _, variables = converted("mtl_lora_llama_qkvo")
    paths = traverse_util.flatten_dict(variables, sep="/")
    assert "params/layers/self_attn/q_proj/kernel" in paths
    assert {path.split("/")[0] for path in paths} == {"params", "lora"}

"""The reference's VL-BART: its function, losses, gradients, texts and training; both ways; and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import vl

from mtlora_jax.config import Optim
from mtlora_jax.convert import to_vl_bart_reference, vl_bart_reference
from mtlora_jax.convert.image_text import reference_rows
from mtlora_jax.engine import tables
from mtlora_jax.engine.optim import make_optimizer, schedule
from mtlora_jax.engine.partition import join, split_variables
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart_weights import rows
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.decode import Search, beams, generate
from mtlora_jax.image_text.workload import sums, table, total
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.language.loss import mean_loss, token_losses
from mtlora_jax.weights import mapping

CONFIG = ImageTextConfig(
    adapter=Adapter(rank=4, alpha=8, up_projections=2, temperature=0.8, sites=("attn/[qv]_proj",)),
    optim=Optim(
        lr=1e-3,
        schedule="linear",
        warmup_steps=2,
        steps=8,
        weight_decay=0.01,
        eps=1e-6,
        eps_corrected=False,
        clip_norm=5.0,
        absent_tasks="step",
    ),
)
TASKS = CONFIG.make_tasks()


@pytest.mark.parametrize("task", vl.TASKS)
def test_logits_are_the_reference_s(task):
    for adapted, golden in ((False, vl.PLAIN), (True, vl.ADAPTED)):
        model, variables = vl.model(adapted)
        logits = model.apply(variables, *vl.inputs(task), vl.task_id(task))
        np.testing.assert_allclose(logits, golden[f"{task}:logits"], atol=1e-4)


def test_mixed_tasks_give_the_reference_s_logits():
    model, variables = vl.model(adapted=True)
    logits = model.apply(variables, *vl.inputs("vqa"), vl.ADAPTED["mixed:lambda_index"])
    np.testing.assert_allclose(logits, vl.ADAPTED["mixed:logits"], atol=1e-4)


def test_regions_with_boxes_masks_and_ids():
    model, variables = vl.model(adapted=False)
    ids, _, _, targets = vl.inputs("gqa")
    inputs = ids, vl.PLAIN["boxes:vis_feats"], vl.PLAIN["boxes:boxes"], targets
    options = {
        "boxes": {},
        "boxmask": {"visual_mask": vl.PLAIN["boxmask:vis_attention_mask"]},
        "boxes_two": {
            "image_ids": vl.PLAIN["boxes_two:img_order_ids"],
            "object_ids": vl.PLAIN["boxes_two:obj_order_ids"],
        },
    }
    for name, more in options.items():
        np.testing.assert_allclose(model.apply(variables, *inputs, **more), vl.PLAIN[f"{name}:logits"], atol=1e-4)


@pytest.mark.parametrize("task", ["vqa", "gqa", "caption"])
def test_texts_are_the_reference_s(task):
    ids, features, boxes, _ = vl.inputs(task)
    for adapted, golden in ((False, vl.PLAIN), (True, vl.ADAPTED)):
        model, variables = vl.model(adapted)
        states, mask = model.apply(variables, ids, features, boxes, vl.task_id(task), method="encode")
        written = np.asarray(generate(model, variables, states, mask, vl.task_id(task), Search()))
        expected = golden[f"{task}:greedy_ids"]
        np.testing.assert_array_equal(written[:, : expected.shape[1]], expected)
        assert (written[:, expected.shape[1] :] == model.spec.pad).all()


def test_beams_are_the_reference_s():
    model, variables = vl.model(adapted=False)
    ids, features, boxes, _ = vl.inputs("gqa")
    states, mask = model.apply(variables, ids, features, boxes, method="encode")
    written = np.asarray(beams(model, variables, states, mask, None, Search(5))[0]).reshape(15, -1)
    expected = vl.PLAIN["beam5_ids"]
    np.testing.assert_array_equal(written[:, : expected.shape[1]], expected)


def test_statements_are_judged_by_the_reference_s_logits():
    model, variables = vl.model(adapted=True)
    ids, features, boxes, _ = vl.inputs("nlvr")
    begun = np.array([[2, 0]] * len(ids))
    logits = model.apply(variables, ids, features, boxes, None, vl.task_id("nlvr"), decoder_input_ids=begun)[:, 1]
    for word in ("true", "false"):
        expected = vl.ADAPTED[f"nlvr:test_{word}_logit"]
        np.testing.assert_allclose(logits[:, int(vl.PLAIN[f"{word}_id"])], expected, atol=1e-4)


def loss(model, trainable, frozen, batch):
    variables = join(trainable, frozen)
    inputs = batch["tokens"], batch["features"], None, batch["targets"], batch["task_id"]
    hidden = model.apply(variables, *inputs, method="hidden")
    head = partial(model.apply, variables, method="head")
    found = sums(TASKS, token_losses(head, model.spec.vocab_size, hidden, batch["targets"]), batch)
    return total(dict.fromkeys(TASKS, 1.0), {name: mean_loss(of) for name, of in found.items()}, found)


def parts(variables):
    """What trains, what does not, and the labels of what trains."""
    labels = tables.label_paths(table(CONFIG), tables.paths(variables))
    trainable, frozen, _ = split_variables(variables, labels)
    named = [labels[path] for path in tables.paths(trainable)]
    return trainable, frozen, jax.tree.unflatten(jax.tree.structure(trainable), named)


def theirs(model, tree) -> dict[str, np.ndarray]:
    """Leaves under the reference's names."""
    params = mapping.save(tables.flatten({"params": tree["params"]}), rows(model.spec))
    return params | mapping.save(tables.flatten({"lora": tree["lora"]}), reference_rows(model))


@pytest.mark.parametrize("task", vl.TASKS)
def test_losses_and_gradients_are_the_reference_s(task):
    model, variables = vl.model(adapted=True)
    trainable, frozen, _ = parts(variables)
    value, grads = jax.jit(jax.value_and_grad(partial(loss, model)))(trainable, frozen, vl.batch(task))
    assert float(value) == pytest.approx(float(vl.ADAPTED[f"{task}:loss"]), abs=1e-5)
    ours, prefix = theirs(model, grads), f"grad:{task}:"
    known = [name for name in vl.ADAPTED.files if name.startswith(prefix)]
    for name in known:
        np.testing.assert_allclose(ours[name.removeprefix(prefix)], vl.ADAPTED[name], atol=1e-3)
    assert len(known) == {"vqa": len(ours), "nlvr": 48}.get(task, 0)


def test_eight_steps_train_as_the_reference_does():
    model, variables = vl.model(adapted=True)
    trainable, frozen, labels = parts(variables)
    learning_rate = schedule(CONFIG.optim, 8)
    optimizer = make_optimizer(CONFIG.optim, learning_rate, labels)
    state = optimizer.init(trainable)
    gradient = jax.jit(jax.value_and_grad(partial(loss, model)))
    for step, task in enumerate(vl.ORDER):
        value, grads = gradient(trainable, frozen, vl.batch(task))
        assert float(value) == pytest.approx(vl.TRAINED["loss"][step], abs=1e-4)
        assert float(optax.tree.norm(grads)) == pytest.approx(vl.TRAINED["grad_norm"][step], abs=1e-4)
        assert float(learning_rate(step)) == pytest.approx(vl.TRAINED["lr"][step], abs=1e-9)
        present = {name: jnp.bool_(name == task) for name in vl.TASKS}
        updates, state = optimizer.update(grads, state, trainable, present=present)
        trainable = optax.apply_updates(trainable, updates)
    from safetensors.numpy import load_file

    expected = load_file(vl.DATA / "vl_train8.safetensors")
    ours = theirs(model, trainable)
    assert set(ours) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, err_msg=name)


def test_a_checkpoint_comes_back_as_it_was():
    model, variables = vl.model(adapted=True)
    back, state = to_vl_bart_reference(model, variables), vl.state(adapted=True)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
    copies = set(back) - set(state)
    assert len(copies) == 4
    for name in copies:
        np.testing.assert_array_equal(back[name], state["model.shared.weight"])
    again, _ = vl_bart_reference(vl.CONFIG, back, vl.HYPER)
    assert again == model


def test_what_is_wrong_with_a_checkpoint_is_named():
    state = vl.state(adapted=True)
    name = "model.decoder.layers.1.encoder_attn.q_proj.lora_A"
    with pytest.raises(UserError, match="needed as hyper"):
        vl_bart_reference(vl.CONFIG, state)
    with pytest.raises(UserError, match="hyper lacks tau"):
        vl_bart_reference(vl.CONFIG, state, {k: v for k, v in vl.HYPER.items() if k != "tau"})
    with pytest.raises(UserError, match=r"of another size: .*lora_"):
        vl_bart_reference(vl.CONFIG, state, vl.HYPER | {"r": 3})
    with pytest.raises(UserError, match=name):
        vl_bart_reference(vl.CONFIG, {k: v for k, v in state.items() if k != name}, vl.HYPER)
    with pytest.raises(UserError, match="feat_dim is missing"):
        vl_bart_reference({k: v for k, v in vl.CONFIG.items() if k != "feat_dim"}, state, vl.HYPER)
    with pytest.raises(UserError, match=r"lacks model\.shared"):
        vl_bart_reference(vl.CONFIG, {}, vl.HYPER)
    with pytest.raises(UserError, match="stray"):
        vl_bart_reference(vl.CONFIG, state | {"model.stray": np.zeros(1)}, vl.HYPER)

"""The MTLoRA reference's models: outputs, losses, gradients and running statistics, in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden import OUR_TASKS, OUTPUT_TOLERANCE, Case, Recorder, arrays, compiled

from mtlora_jax import adapters
from mtlora_jax.adapters import MTLoRA, Streams
from mtlora_jax.convert import reference
from mtlora_jax.vision.heads import resize
from mtlora_jax.vision.tasks import task
from mtlora_jax.weights import mapping

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
OF_GLOBAL_NORM = 1e-6

CASES = (
    "matrix",
    "matrix:train",
    "plus",
    "matrixv2",
    "addition",
    "lora_only",
    "no_proj",
    "no_fc1",
    "split_qkv",
    "plain_swin",
    "head_segformer",
    "head_updecoder",
    "head_aspp",
)


def losses_and_gradients(case: Case, model, variables):
    """One compiled call: outputs at the image's size, losses by task and in total, new statistics, gradients."""
    tasks = {t: task(OUR_TASKS.get(t, t)) for t in case.tasks}
    labels = {t: jnp.asarray(x) for t, x in case.labels.items()}
    valid = jnp.ones(len(case.images), bool)

    def loss(weights, statistics, images):
        logits, mutated = model.apply(
            {**weights, "batch_stats": statistics},
            images,
            train=case.train,
            method="logits",
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        outputs = {t: resize(x, images.shape[1]) for t, x in logits.items()}
        losses = {t: tasks[t].finish(tasks[t].sums(x, labels[t], valid)) for t, x in outputs.items()}
        losses["total"] = sum(tasks[t].weight * losses[t] for t in outputs)
        return losses["total"], (outputs, losses, mutated)

    weights = {name: variables[name] for name in ("params", "lora") if name in variables}
    differentiate = jax.value_and_grad(loss, has_aux=True)
    args = weights, variables["batch_stats"], case.images
    (_, rest), gradients = compiled(differentiate, *args)(*args)
    return (*rest, gradients)


def named(model, tree) -> dict[str, np.ndarray]:
    """A tree shaped like the variables, under the reference's names and in its layouts."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return mapping.save({path: np.asarray(leaf) for path, leaf in flat.items()}, reference.rows(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_reproduced(name):
    case = Case(name)
    model, variables = case.convert()
    outputs, losses, mutated, gradients = losses_and_gradients(case, model, variables)

    step = case.about["out_stride"]
    for t in case.tasks:
        ours = np.asarray(outputs[t])[:, ::step, ::step].transpose(0, 3, 1, 2)
        if not np.abs(ours - case.expected[f"out:{t}"]).max() < OUTPUT_TOLERANCE:
            first = Recorder(case, model, variables).first_departure(variables)
            pytest.fail(f"{name}: out:{t} differs; first: {first}")
        assert abs(float(losses[t]) - case.expected[f"loss:{t}"]) < LOSS_TOLERANCE, t
    np.testing.assert_allclose(losses["total"], case.expected["loss:total"], rtol=LOSS_TOLERANCE)

    total = float(case.expected["gnorm_total"])
    ours, compared = named(model, gradients), set()
    for key, theirs in case.expected.items():
        kind, _, leaf = key.partition(":")
        if kind == "grad":
            worst = np.abs(ours[leaf] - theirs).max()
            assert worst <= GRADIENT_TOLERANCE * np.abs(theirs).max() + OF_GLOBAL_NORM * total, key
        if kind == "gnorm":
            worst = abs(np.linalg.norm(ours[leaf].astype(np.float64)) - theirs)
            assert worst <= GRADIENT_TOLERANCE * theirs + OF_GLOBAL_NORM * total, key
            compared.add(leaf)
    assert compared == set(case.about["trainable"]) - set(case.about["trainable_without_gradient"])
    for leaf in case.about["trainable_without_gradient"]:
        assert not ours[leaf].any(), leaf

    statistics = named(model, mutated)
    for key, theirs in case.expected.items():
        if key.startswith("bn_after:"):
            np.testing.assert_allclose(statistics[key.removeprefix("bn_after:")], theirs, rtol=1e-4, atol=1e-5)
    assert any(key.startswith("bn_after:") for key in case.expected) == case.train


DEPARTURES = {
    "params/backbone/patch_embed/norm/bias": "patch_embed",
    "params/backbone/layers_1/blocks_0/mlp/fc1/bias": "block:1.0:shared",
    "lora/backbone/layers_2/blocks_1/attn/proj/tasks/sal/B": "block:2.1:task:sal",
    "params/backbone/layers_0/downsample/norm/bias": "stage0:shared",
    "params/projections/semseg/level_0": "feat:semseg:0",
    "params/heads_sal/out/bias": "head:sal",
}
"""A leaf, and the layer whose output it changes first."""


@pytest.mark.slow
def test_a_departure_is_found_where_it_begins():
    case = Case("matrix")
    model, variables = case.convert()
    recorder = Recorder(case, model, variables)
    assert recorder.first_departure(variables) is None
    flat = traverse_util.flatten_dict(variables, sep="/")
    for leaf, where in DEPARTURES.items():
        changed = traverse_util.unflatten_dict({**flat, leaf: flat[leaf] + 0.5}, sep="/")
        assert recorder.first_departure(changed).startswith(f"{where} departs by"), leaf


# --- one layer


LEAVES_OF_TASKS = ("tasks/a/A", "tasks/a/B", "tasks/b/A", "tasks/b/B")


def layer_leaves(golden, prefix: str) -> dict[str, np.ndarray]:
    """A golden layer's parameters under our names."""
    theirs = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    wanted = {
        path: np.empty(theirs[names[0]].T.shape, np.float32)
        for path in ("shared_A", "shared_B", "norm_scale", "norm_bias", *LEAVES_OF_TASKS)
        if (names := mapping.lookup(path, reference.ADAPTER)[0])[0] in theirs
    }
    leaves = mapping.load(theirs, wanted, reference.ADAPTER, droppable=[r"linear\..*"])
    return traverse_util.unflatten_dict(leaves, sep="/")


def layer_spec(mode: str, with_tasks: bool) -> MTLoRA:
    tasks = {"tasks": ("a", "b"), "task_ranks": (2, 1), "task_scales": (2.0, 0.5)} if with_tasks else {}
    return MTLoRA(rank=3, scale=4.0, mode=mode, **tasks)


MODULES = [
    (file, mode, with_tasks)
    for file in ("modules", "qkv_module")
    for mode in ("matrix", "matrixv2", "addition", "lora_only")
    for with_tasks in (True, False)
    if (file, mode) != ("qkv_module", "lora_only")
]


@pytest.mark.parametrize(("file", "mode", "with_tasks"), MODULES)
def test_a_layer_is_the_reference_layer(file, mode, with_tasks):
    golden = arrays(f"mtlora_{file}.npz")
    case = f"{mode}/{'tasks' if with_tasks else 'notasks'}"
    slots = ("q", "k", "v") if file == "qkv_module" else ()
    prefixes = [f"{case}/p:{slot}." for slot in slots] or [f"{case}/p:"]
    kernel = np.concatenate([golden[f"{p}linear.weight"].T for p in prefixes], axis=1)
    bias = np.concatenate([golden[f"{p}linear.bias"] for p in prefixes])
    parts = [layer_leaves(golden, p) for p in prefixes]
    layer = adapters.Dense(kernel.shape[1], adapter=layer_spec(mode, with_tasks), slots=slots)
    variables = {
        "params": {"kernel": kernel, "bias": bias},
        "lora": dict(zip(slots, parts, strict=True)) if slots else parts[0],
    }
    x = golden["x"]
    streams = Streams(x, np.stack([golden["xt:a"], golden["xt:b"]]))
    for given, inputs in (("noxt", x), ("xt", streams)):
        if not with_tasks or mode == "lora_only":
            # A layer without tasks is handed the shared stream alone.
            inputs = x
        y = layer.apply(variables, inputs)
        shared = y.shared if isinstance(y, Streams) else y
        np.testing.assert_allclose(shared, golden[f"{case}/{given}/y"], atol=1e-5)
        has_tasks = f"{case}/{given}/y:a" in golden
        assert isinstance(y, Streams) == has_tasks
        for t, name in enumerate("ab" if has_tasks else ""):
            np.testing.assert_allclose(y.tasks[t], golden[f"{case}/{given}/y:{name}"], atol=1e-5)

"""The Flax face: `nn.Dense`'s paths and bits, leaves checked where they are read, slots, and merging a model."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, IDS, IN, OUT, Layer, layer_of, same
from flax import linen as nn
from flax import traverse_util
from models import Model, noisy

from mtlora_jax import adapters
from mtlora_jax.adapters import Dense, LoRA, MTLoRA, Streams

KEY = jax.random.key(0)
X = layer_of("lora").inputs["array"]


# --- base weights


@pytest.mark.parametrize("keys", [KEY, {"params": KEY, "lora": jax.random.key(1)}], ids=["one key", "two keys"])
@pytest.mark.parametrize("slots", [(), ("l", "m", "n")])
def test_base_weights_have_the_bits_of_a_plain_dense(keys, slots):
    expected = nn.Dense(6).init(KEY, X)["params"]
    same(Dense(6).init(keys, X), {"params": expected})
    for name in ("lora", "full", "mtlora, matrixv2, shared", "mtlora, addition, per_task"):
        variables = Dense(6, adapter=CASES[name], slots=slots).init(keys, X)
        same(variables["params"], expected)
        assert set(variables) == {"params", "lora"}, name


def test_without_a_bias_there_is_none():
    variables = Dense(OUT, use_bias=False, adapter=LoRA(rank=2)).init(KEY, X)
    assert set(variables["params"]) == {"kernel"}


def test_adapters_are_drawn_leaf_by_leaf():
    def drawn(**options):
        spec = MTLoRA(rank=2, tasks=("a", "b"), task_ranks=(2, 1), task_scales=(1.0, 1.0), **options)
        return Dense(OUT, adapter=spec).init(KEY, X)["lora"]

    plain, scaled = drawn(), drawn(trainable_scale=True, trainable_task_scales=True)
    plain, scaled = (traverse_util.flatten_dict(tree, sep="/") for tree in (plain, scaled))
    assert set(scaled) - set(plain) == {"shared_scale", "tasks/a/scale", "tasks/b/scale"}
    same(plain, {name: scaled[name] for name in plain})
    same(drawn(mode="addition")["tasks"]["a"]["A"], plain["tasks/a/A"])


def test_a_task_may_be_called_anything():
    spec = MTLoRA(rank=2, tasks=("shared", "norm", "a_b"), task_ranks=(2, 2, 2), task_scales=(1.0,) * 3)
    leaves = Dense(OUT, adapter=spec).init(KEY, X)["lora"]
    drawn = [leaves["shared_A"], *(own["A"] for own in leaves["tasks"].values())]
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])


def test_dropout_of_the_face_draws_from_its_stream_while_training():
    module = Dense(OUT, adapter=LoRA(rank=2, dropout=0.5))
    variables = noisy(module.init(KEY, X))
    still = module.apply(variables, X)
    same(module.apply(variables, X, rngs={"dropout": KEY}), still)
    one = module.apply(variables, X, train=True, rngs={"dropout": KEY})
    assert (one != still).any()
    same(module.apply(variables, X, train=True, rngs={"dropout": KEY}), one)
    with pytest.raises(Exception, match="dropout"):
        module.apply(variables, X, train=True)


# --- leaves that do not fit (Flax notices none of this)


def without(path):
    return lambda flat: {p: a for p, a in flat.items() if p != path}


def with_(path, shape):
    return lambda flat: {**flat, path: jnp.zeros(shape)}


MISFITS = [
    (LoRA(rank=2), (), without("inner/second/A"), "lora/inner/second/A is missing.*shape (6, 2)"),
    (LoRA(rank=2), (), with_("first/A", (IN, 3)), "lora/first/A has shape (4, 3), the adapter declares (4, 2).*rank"),
    (LoRA(rank=2), (), with_("inner/second/z_A", (6, 2)), "lora/inner/second/z_A is not a leaf of this adapter"),
    (LoRA(rank=2), (), lambda flat: {}, "lora/first/A is missing"),
    (None, (), with_("first/A", (IN, 2)), "lora/first/A was passed to a layer built without an adapter"),
    (None, (), with_("inner/second/B", (2, 4)), "lora/inner/second/B was passed to a layer built without"),
    (LoRA(rank=2), ("q", "k"), without("first/k/A"), "lora/first/k/A is missing"),
    (LoRA(rank=2), ("q", "k"), with_("first/q/B", (3, 3)), "lora/first/q/B has shape (3, 3)"),
    (
        LoRA(rank=2),
        ("q", "k"),
        with_("first/A", (4, 2)),
        "lora/first/A is not a slot of this layer: its slots are q, k",
    ),
    (LoRA(rank=2), (), with_("first/q/A", (4, 2)), "lora/first/q/A is not a leaf of this adapter"),
]


@pytest.mark.parametrize(("adapter", "slots", "change", "message"), MISFITS)
def test_a_tree_that_does_not_fit_is_an_error_that_names_the_path(adapter, slots, change, message):
    model = Model(adapter, slots)
    variables = model.init(KEY, X)
    changed = change(traverse_util.flatten_dict(variables.get("lora", {}), sep="/"))
    changed = {**variables, "lora": traverse_util.unflatten_dict(changed, sep="/")}
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ValueError, match=pattern):
        model.apply(changed, X)
    if adapter is not None:
        # Merging reads leaves as well.
        with pytest.raises(ValueError, match=pattern.split()[0].rstrip("\\")):
            adapters.merge(changed, adapters.sites(model, X))


def test_leaves_fit_as_they_were_drawn():
    for slots in ((), ("q", "k")):
        model = Model(LoRA(rank=2), slots)
        assert model.apply(model.init(KEY, X), X).shape == (*X.shape[:-1], 4)


def test_slots_must_divide_the_width():
    with pytest.raises(ValueError, match="3 slots do not divide a layer 4 wide"):
        Dense(4, adapter=LoRA(), slots=("q", "k", "v")).init(KEY, X)


# --- slots


@pytest.mark.parametrize("name", CASES)
def test_slots_are_separate_layers_side_by_side(name):
    spec = CASES[name]
    fused, single = Dense(3 * OUT, adapter=spec, slots=("q", "k", "v")), Dense(OUT, adapter=spec)
    variables = noisy(fused.init(KEY, X, task_id=IDS))
    for x in Layer(spec).inputs.values():
        separate = []
        for i, slot in enumerate("qkv"):
            columns = jax.tree.map(lambda a, i=i: a[..., i * OUT : (i + 1) * OUT], variables["params"])
            separate.append(single.apply({"params": columns, "lora": variables["lora"][slot]}, x, task_id=IDS))
        expected = jax.tree.map(lambda *columns: jnp.concatenate(columns, -1), *separate)
        same(fused.apply(variables, x, task_id=IDS), expected)


def test_streams_of_a_plain_layer_get_the_same_kernel():
    variables = noisy(Dense(OUT).init(KEY, X))
    y = Dense(OUT).apply(variables, Streams(X, jnp.stack([X, 2 * X])))
    np.testing.assert_allclose(y.tasks[0], y.shared, rtol=1e-6)
    np.testing.assert_allclose(y.tasks[1], Dense(OUT).apply(variables, 2 * X), rtol=1e-6)

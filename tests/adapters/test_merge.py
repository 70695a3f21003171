"""Whole models: finding adapted layers, merging and exporting them, layers of a scan included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import IDS, IN, OUT, B, Layer, N, layer_of, parts, same
from flax import linen as nn
from models import Model, noisy

from mtlora_jax import adapters
from mtlora_jax.adapters import CannotMerge, Dense, Full, LoRA, MTLLoRA, MTLoRA, export, merge, sites

KEY = jax.random.key(0)
X = layer_of("lora").inputs["array"]


def test_sites_are_the_adapted_layers():
    found = adapters.sites(Model(LoRA(rank=2), ("q", "k")), X, train=True)
    assert {path: layer.slots for path, layer in found.items()} == {("first",): ("q", "k"), ("inner", "second"): ()}
    assert adapters.sites(Model(), jax.ShapeDtypeStruct(X.shape, X.dtype)) == {}


@pytest.mark.parametrize("slots", [(), ("q", "k")])
def test_a_merged_model_is_a_plain_one(slots):
    model = Model(LoRA(rank=2), slots)
    variables = noisy(model.init(KEY, X))
    before = jax.tree.map(jnp.copy, variables)
    merged = adapters.merge(variables, adapters.sites(model, X))
    same(variables, before)
    assert set(merged) == {"params"}
    np.testing.assert_allclose(Model().apply(merged, X), model.apply(variables, X), rtol=1e-5, atol=1e-4)
    assert jax.tree.structure(merged) == jax.tree.structure(Model().init(KEY, X))


def test_a_layer_with_slots_is_exported_as_one_pair():
    model = Model(LoRA(rank=2), ("q", "k"))
    variables = noisy(model.init(KEY, X))
    found = adapters.sites(model, X)
    merged = adapters.merge(variables, found)["params"]
    A, B = adapters.export(variables, found)[("first",)]
    assert A.shape[1] == B.shape[0] == 2 * 2
    np.testing.assert_allclose(A @ B, merged["first"]["kernel"] - variables["params"]["first"]["kernel"], atol=1e-5)


def test_a_part_of_a_model_can_be_merged():
    model = Model(LoRA(rank=2), ("q", "k"))
    variables = noisy(model.init(KEY, X))
    layers = {path: layer for path, layer in adapters.sites(model, X).items() if path == ("first",)}
    merged = adapters.merge(variables, layers)
    assert set(merged["lora"]) == {"inner"}
    same(merged["lora"]["inner"], variables["lora"]["inner"])
    same(merged["params"]["inner"], variables["params"]["inner"])


def test_merging_picks_a_task():
    spec = Full(("a", "b"))
    layer = Layer(spec)
    kernel, bias = layer.base
    variables = {"params": {"kernel": kernel, "bias": bias}, "lora": layer.leaves}
    sites = adapters.sites(Dense(OUT, adapter=spec), X)
    y = parts(layer.apply(layer.leaves, X), spec.tasks)
    for t in (None, "a", "b"):
        merged = adapters.merge(variables, sites, t)
        np.testing.assert_allclose(Dense(OUT).apply(merged, X), y[t or "shared"], rtol=1e-5, atol=1e-5)


def test_a_layer_that_cannot_be_merged_is_named():
    spec = MTLoRA(rank=2, tasks=("a",), task_ranks=(2,), task_scales=(1.0,))
    model = Dense(OUT, adapter=spec, name="tail")
    variables = {"params": {"tail": model.init(KEY, X)["params"]}, "lora": {"tail": model.init(KEY, X)["lora"]}}
    with pytest.raises(CannotMerge, match=r"^tail cannot be merged: the published output of task a adds W"):
        adapters.merge(variables, {("tail",): model}, "a")
    with pytest.raises(ValueError, match="params/head/kernel is missing"):
        adapters.merge(variables, {("head",): model})


# --- layers of a scan


class Block(nn.Module):
    """One layer, in the form that `nn.scan` wants."""

    adapter: object

    @nn.compact
    def __call__(self, x, task_id):
        return Dense(IN, adapter=self.adapter, name="layer")(x, task_id=task_id), None


class Stack(nn.Module):
    """Three equal layers, one after the other."""

    adapter: object = None

    @nn.compact
    def __call__(self, x, task_id):
        rngs = {"params": True, "lora": True}
        scan = nn.scan(Block, {"params": 0, "lora": 0}, split_rngs=rngs, in_axes=nn.broadcast, length=3)
        return scan(self.adapter, name="blocks")(x, task_id)[0]


def test_layers_of_a_scan_are_drawn_merged_and_exported_each_for_itself():
    spec = MTLLoRA(("a", "b", "c"), rank=2)
    model, x = Stack(spec), jax.random.normal(jax.random.key(3), (B, N, IN))
    keys = {"params": jax.random.key(0), "lora": jax.random.key(1)}
    variables = model.init(keys, x, IDS)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], Stack().init(keys, x, IDS)["params"])
    assert (variables["lora"]["blocks"]["layer"]["A"][0] != variables["lora"]["blocks"]["layer"]["A"][1]).any()
    variables["lora"] = jax.tree.map(lambda leaf: leaf + 0.3, variables["lora"])
    found = sites(model, x, IDS)
    assert list(found) == [("blocks", "layer")]
    plain = merge(variables, found, "b")
    expected = model.apply(variables, x, jnp.full(B, 1))
    np.testing.assert_allclose(Stack().apply(plain, x, IDS), expected, rtol=1e-4, atol=1e-4)
    A, B_ = export(variables, found, "b")[("blocks", "layer")]
    np.testing.assert_allclose(
        A @ B_,
        plain["params"]["blocks"]["layer"]["kernel"] - variables["params"]["blocks"]["layer"]["kernel"],
        atol=1e-5,
    )
    with pytest.raises(CannotMerge, match=r"blocks/layer cannot be exported: .* name one of a, b, c"):
        export(variables, found)
    with pytest.raises(CannotMerge, match=r"blocks/layer cannot be merged: .* name one of a, b, c"):
        merge(variables, found)
    with pytest.raises(ValueError, match="lora/blocks/layer/A has shape"):
        merge({**variables, "lora": jax.tree.map(lambda leaf: leaf[:2], variables["lora"])}, found, "b")

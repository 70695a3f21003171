"""Adapters that are trained and change nothing are found, wherever they are loaded or merged."""

import jax
import jax.numpy as jnp
import pytest

from mtlora_jax.adapters import Dense, LoRA, MTLLoRA, merge
from mtlora_jax.convert.effect import check_acts, check_merged
from mtlora_jax.errors import UserError
from mtlora_jax.testing import tiny

SPECS = {
    "lora": LoRA(rank=2, scale=2.0),
    "by task": MTLLoRA(tasks=("a", "b"), rank=2, up_projections=2),
}


def layer(spec, slots=(), layers=0):
    """A layer's variables with noise on every leaf, below `proj`; stacked as a scan stacks them."""
    dense = Dense(6, adapter=spec, slots=slots)
    task_id = jnp.zeros(2, jnp.int32) if spec.needs_task_id else None
    rngs = {"params": jax.random.key(0), "lora": jax.random.key(1)}
    variables = dense.init(rngs, jnp.ones((2, 4)), task_id=task_id)
    if layers:
        variables = jax.tree.map(lambda leaf: jnp.stack([leaf] * layers), variables)
    return {("proj",): dense}, {name: {"proj": tree} for name, tree in variables.items()}


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("slots", [(), ("q", "k")])
@pytest.mark.parametrize("name", SPECS)
def test_fresh_adapters_and_those_that_act_pass(name, slots, layers):
    sites, fresh = layer(SPECS[name], slots, layers)
    check_acts(fresh, sites, "x")
    check_acts({**fresh, "lora": tiny.noisy(fresh["lora"])}, sites, "x")


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("slots", [(), ("q", "k")])
def test_a_scale_of_zero_is_found(slots, layers):
    sites, variables = layer(LoRA(rank=2, scale=0.0), slots, layers)
    with pytest.raises(UserError, match=r"^file: the adapters of .* are trained and change no layer's output"):
        check_acts({**variables, "lora": tiny.noisy(variables["lora"])}, sites, "file")


def test_one_layer_of_a_scan_that_acts_is_enough():
    sites, variables = layer(SPECS["lora"], layers=2)
    lora = tiny.noisy(variables["lora"])
    lora["proj"]["B"] = lora["proj"]["B"].at[0].set(0.0)
    check_acts({**variables, "lora": lora}, sites, "file")


def test_an_update_smaller_than_a_step_of_the_kernel_is_found():
    sites, variables = layer(SPECS["lora"])
    for scale, found in ((1.0, False), (1e-6, True)):
        lora = tiny.noisy(variables["lora"], scale)
        coarse = {"params": jax.tree.map(lambda x: (x + 1).astype(jnp.bfloat16), variables["params"]), "lora": lora}
        merged = merge(coarse, sites, None)["params"]
        if found:
            with pytest.raises(UserError, match=r"^file: 1 layers were merged .* smaller than a step of bfloat16"):
                check_merged(coarse["params"], merged, coarse, sites, "file")
        else:
            check_merged(coarse["params"], merged, coarse, sites, "file")


def test_fresh_adapters_may_merge_to_the_base():
    sites, variables = layer(SPECS["lora"])
    merged = merge(variables, sites, None)["params"]
    check_merged(variables["params"], merged, variables, sites, "file")

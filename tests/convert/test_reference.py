"""The reference's checkpoints in and out: names, shapes, bits, and what does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from golden import DATA, Case, compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from small_config import SMALL, changed, random_state_dict

from mtlora_jax.convert import mtlora_reference, reference, to_mtlora_reference
from mtlora_jax.convert.reference_config import read_model
from mtlora_jax.errors import UserError
from mtlora_jax.weights import mapping


def assert_same_bits(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x, err_msg=name, strict=True)


CASES = ["matrix", "plus", "matrixv2", "addition", "lora_only", "no_proj", "no_fc1", "plain_swin", "split_qkv"]


@pytest.mark.parametrize("name", [*CASES, "head_segformer", "head_updecoder", "head_aspp"])
def test_a_reference_checkpoint_comes_back_bit_for_bit(name):
    case = Case(name)
    theirs = {k: x.astype(np.int64) if x.dtype == np.int16 else x for k, x in case.state_dict.items()}
    assert_same_bits(to_mtlora_reference(*case.convert()), theirs)


def test_names_and_shapes_of_the_published_checkpoint():
    names = json.loads((DATA / "mtlora_checkpoint_names.json").read_text())["full_model_state_dict_r64"]
    config = {
        "DATA": {"IMG_SIZE": 448},
        "MODEL": {
            "MTLORA": {
                "ENABLED": True,
                "R_PER_TASK": {"semseg": [4], "normals": [4], "sal": [4], "human_parts": [4], "shared": [64]},
            }
        },
        "TASKS": ["semseg", "normals", "sal", "human_parts"],
        "DATASET": "PASCALContext",
    }
    model = read_model(config)
    zero = {path: np.broadcast_to(np.float32(0), x.shape) for path, x in reference.abstract(model).items()}
    ours = reference.buffers(model.backbone) | mapping.save(zero, reference.rows(model))
    assert {name: list(x.shape) for name, x in ours.items()} == names


OPTIONS = st.fixed_dictionaries(
    {
        "MODEL.MTLORA.ENABLED": st.sampled_from([True, True, True, False]),
        "MODEL.MTLORA.SHARED_MODE": st.sampled_from(["matrix", "matrixv2", "add", "addition", "lora_only"]),
        "MODEL.MTLORA.R": st.sampled_from([3, [2], [0, 2, 0, 1]]),
        **{f"MODEL.MTLORA.{site}_ENABLED": st.booleans() for site in ("QKV", "PROJ", "FC1", "FC2", "DOWNSAMPLER")},
        "MODEL.MTLORA.TRAINABLE_SCALE_SHARED": st.booleans(),
        "MODEL.MTLORA.TRAINABLE_SCALE_PER_TASK": st.booleans(),
        "MODEL.MTLORA.INTERMEDIATE_SPECIALIZATION": st.booleans(),
        "MODEL.MTLORA.SPLIT_QKV": st.booleans(),
        "MODEL.PER_TASK_DOWNSAMPLER": st.booleans(),
        "MODEL.DECODER_DOWNSAMPLER": st.booleans(),
        "MODEL.SWIN.APE": st.booleans(),
        "MODEL.SWIN.QKV_BIAS": st.booleans(),
        "MODEL.SWIN.PATCH_NORM": st.booleans(),
        "MODEL.DECODER_HEAD": st.sampled_from(
            ["hrnet", {"semseg": "segformer", "sal": "updecoder"}, {"sal": "deeplab"}]
        ),
    }
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(OPTIONS, st.integers(0, 9))
def test_every_option_round_trips(options, seed):
    config = changed(SMALL, options)
    theirs = random_state_dict(config, seed)
    assert_same_bits(to_mtlora_reference(*mtlora_reference(theirs, config)), theirs)


def test_buffers_are_optional_and_regenerated():
    theirs = random_state_dict(SMALL)
    without = {k: x for k, x in theirs.items() if not k.endswith(("attn_mask", "relative_position_index"))}
    assert len(without) < len(theirs)
    assert_same_bits(to_mtlora_reference(*mtlora_reference(without, SMALL)), theirs)
    dtypes = {k.split(".")[-1]: x.dtype for k, x in theirs.items() if k not in without}
    assert dtypes == {"attn_mask": np.float32, "relative_position_index": np.int64}
    counters = {x.dtype for k, x in theirs.items() if k.endswith("num_batches_tracked")}
    assert counters == {np.dtype(np.int64)}


# --- names, by hand


def names(options: dict) -> set[str]:
    return set(random_state_dict(changed(SMALL, options)))


def test_a_stage_of_rank_0_keeps_the_adapters_names_without_its_leaves():
    found = names({"MODEL.MTLORA.R": [0, 2, 2, 2]})
    proj = {name for name in found if name.startswith("backbone.layers.0.blocks.1.attn.proj.")}
    assert proj == {f"backbone.layers.0.blocks.1.attn.proj.linear.{leaf}" for leaf in ("weight", "bias")}


def test_a_disabled_layer_has_plain_names():
    found = names({"MODEL.MTLORA.PROJ_ENABLED": False})
    proj = {name for name in found if ".0.blocks.1.attn.proj." in name}
    assert proj == {f"backbone.layers.0.blocks.1.attn.proj.{leaf}" for leaf in ("weight", "bias")}
    assert "backbone.layers.0.blocks.1.attn.qkv.linear.weight" in found


def test_trainable_scales_and_norms():
    fc1 = "backbone.layers.1.blocks.0.mlp.fc1"
    both = {"MODEL.MTLORA.TRAINABLE_SCALE_SHARED": True, "MODEL.MTLORA.TRAINABLE_SCALE_PER_TASK": True}
    assert names(both) - names({}) >= {f"{fc1}.lora_shared_scale", f"{fc1}.lora_task_scale.sal"}
    addition = names(both | {"MODEL.MTLORA.SHARED_MODE": "addition"})
    assert addition >= {f"{fc1}.lora_norm.weight", f"{fc1}.lora_norm.bias", f"{fc1}.lora_shared_scale"}
    assert f"{fc1}.lora_shared_A" not in addition


def test_projections():
    per_task, shared = "downsampler.sal.downsample_3.weight", "downsampler.downsample_3.weight"
    assert per_task in names({})
    assert shared in names({"MODEL.PER_TASK_DOWNSAMPLER": False})
    assert not any("downsampler" in name for name in names({"MODEL.DECODER_DOWNSAMPLER": False}))
    raw = changed(SMALL, {"MODEL.DECODER_DOWNSAMPLER": False, "MODEL.PER_TASK_DOWNSAMPLER": False})
    assert random_state_dict(raw)[shared].shape == (32, 32, 1, 1)


@pytest.mark.slow
def test_a_task_of_rank_0_gets_the_plain_product():
    ranks = {"semseg": 2, "sal": 0, "shared": 2}
    config = changed(SMALL, {"MODEL.MTLORA.R_PER_TASK": ranks})
    theirs = random_state_dict(config)
    assert theirs["backbone.layers.0.blocks.1.mlp.fc1.lora_tasks_A.sal"].shape == (0, 4)
    model, variables = mtlora_reference(theirs, config)
    images = np.ones((1, 32, 32, 3), np.float32)
    outputs = compiled(model.apply, variables, images)(variables, images)
    assert all(np.isfinite(x).all() for x in outputs.values())
    assert_same_bits(to_mtlora_reference(model, variables), theirs)


# --- what does not fit


def drop(state_dict, *names):
    return {k: x for k, x in state_dict.items() if k not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop(s, "backbone.patch_embed.proj.bias"), r"lacks backbone\.patch_embed\.proj\.bias$"),
        (lambda s: s | {"head.weight": np.zeros(3)}, r"has keys that the model does not: head\.weight$"),
        (
            lambda s: s | {"backbone.layers.0.blocks.1.mlp.fc1.lora_tasks_A.sal": np.zeros((3, 4), np.float32)},
            r"fc1\.lora_tasks_A\.sal has shape \(3, 4\), the model needs \(2, 4\)$",
        ),
        (
            lambda s: s | {"backbone.layers.0.blocks.0.attn.relative_position_bias_table": np.zeros((25, 1))},
            r"relative_position_bias_table has shape \(25, 1\), the model needs \(9, 1\)$",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit(change, message):
    with pytest.raises(UserError, match=message):
        mtlora_reference(change(random_state_dict(SMALL)), SMALL)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split_qkv": True}, "q, k and v carry an adapter each"),
        ({"task_base": "per_task"}, "frozen product of its own input"),
        ({"task_residual": "kept", "proj": False}, "keep the residual"),
    ],
)
def test_forms_the_reference_cannot_hold(changes, reason):
    model, variables = mtlora_reference(random_state_dict(SMALL), SMALL)
    model = model.clone(placement=replace(model.placement, **changes))
    with pytest.raises(UserError, match=reason):
        to_mtlora_reference(model, variables)
    with pytest.raises(UserError, match=f"{reason}.* and adapters are folded"):
        to_mtlora_reference(model.clone(folded=True), variables)

"""The MTLoRA reference's checkpoints: its state dict to our variables and back, bit for bit."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mtlora_jax.convert.effect import check_acts
from mtlora_jax.convert.reference_config import read_model
from mtlora_jax.errors import UserError
from mtlora_jax.vision.fold import adapted
from mtlora_jax.vision.model import DenseModel
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.swin_weights import BLOCK, ORIGINAL, THEIRS
from mtlora_jax.vision.windows import relative_position_index, shift_mask
from mtlora_jax.weights import mapping
from mtlora_jax.weights.mapping import AS_IS, CONV, CONV_TRANSPOSED, POINTWISE, TRANSPOSED, Row, layer, under

DROPPABLE = (r"backbone\..*\.attn_mask", r"backbone\..*\.relative_position_index")
"""Buffers that follow from the model's shape; `to_mtlora_reference` writes them anew."""

ADAPTER: tuple[Row, ...] = (
    *(Row(f"shared_{x}", (f"lora_shared_{x}",), TRANSPOSED) for x in "AB"),
    Row("shared_scale", ("lora_shared_scale",)),
    Row("norm_scale", ("lora_norm.weight",)),
    Row("norm_bias", ("lora_norm.bias",)),
    *(Row(rf"tasks/(?P<task>[^/]+)/{x}", (rf"lora_tasks_{x}.\g<task>",), TRANSPOSED) for x in "AB"),
    # The reference means to have these, and crashes on building them.
    Row(r"tasks/(?P<task>[^/]+)/scale", (r"lora_task_scale.\g<task>",)),
)

HEADS: dict[str, tuple[Row, ...]] = {
    "hrnet": (
        *layer("expand", "last_layer.0", POINTWISE),
        *layer("norm", "last_layer.1"),
        *layer("out", "last_layer.3", POINTWISE),
    ),
    "segformer": (
        *(row for i in range(4) for row in layer(f"level_{i}", f"linear_c{i + 1}.proj", TRANSPOSED)),
        *layer("fuse", "linear_fuse.conv", POINTWISE),
        *layer("norm", "linear_fuse.bn"),
        *layer("out", "linear_pred", POINTWISE),
        *layer("unused", "conv_seg", POINTWISE),
    ),
    "aspp": (
        *layer("branch_0", "0.convs.0.0", POINTWISE),
        *layer("branch_([123])", r"0.convs.\1.0", CONV),
        # Branch 4 pools first, which shifts its convolution and its norm by one.
        *layer("branch_4", "0.convs.4.1", POINTWISE),
        *layer("norm_4", "0.convs.4.2"),
        *layer(r"norm_(\d)", r"0.convs.\1.1"),
        *layer("project", "0.project.0", POINTWISE),
        *layer("project_norm", "0.project.1"),
        *layer("conv", "1", CONV),
        *layer("norm", "2"),
        *layer("out", "4", POINTWISE),
    ),
    "updecoder": (
        *(Row(f"up_{i}_kernel", (f"deconv_layers.{3 * i}.weight",), CONV_TRANSPOSED) for i in range(3)),
        *(row for i in range(3) for row in layer(f"up_norm_{i}", f"deconv_layers.{3 * i + 1}")),
        *layer("conv", "conv_layers.0", CONV),
        *layer("norm", "conv_layers.1"),
    ),
}

REFUSED: tuple[tuple[Callable[[Placement], bool], str], ...] = (
    (lambda p: p.split_qkv and p.qkv, "q, k and v carry an adapter each, and the reference's qkv is fused"),
    (lambda p: p.task_base == "per_task", "a task stream takes the frozen product of its own input"),
    (
        lambda p: p.task_residual == "kept" and not p.proj,
        "task streams keep the residual that the reference drops where proj is not adapted",
    ),
)
"""Placements that the reference has no counterpart of, and why."""


def mtlora_reference(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[DenseModel, dict[str, Any]]:
    """The reference's model and weights, as ours: the same function to rounding.

    Args:
      state_dict: the reference's names to arrays. Attention masks and index buffers are optional.
      config: nested dict with the reference's yaml keys, plus `TASKS` and `DATASET` (see `read_model`). Absent keys
        take the reference's defaults; absent tasks are those of the decoders.

    Returns:
      The model, its tasks under the config's own names, and its variables in float32. `model.apply(variables,
      images)` maps normalised `[B, S, S, 3]` to `{task: [B, S, S, channels]}`.

    Raises:
      UserError: an unknown config key, a missing rank, a tensor of another shape, missing or left-over tensors.
    """
    decoders = (re.match(r"decoders\.decoders\.(\w+)\.", key) for key in state_dict)
    model = read_model(config, tasks=tuple(dict.fromkeys(m[1] for m in decoders if m)))
    leaves = mapping.load(state_dict, abstract(model), rows(model), DROPPABLE, "the reference checkpoint")
    variables = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(leaves, sep="/"))
    check_acts(variables, adapted(model), "the reference checkpoint")
    return model, variables


def to_mtlora_reference(model: DenseModel, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `mtlora_reference`, buffers included.

    Raises:
      UserError: the model has a form that the reference cannot hold; says which.
    """
    reasons = [] if model.placement is None else [reason for refused, reason in REFUSED if refused(model.placement)]
    reasons += ["adapters are folded into the kernels"] * model.folded
    if reasons:
        raise UserError(f"the MTLoRA reference cannot hold this model: {' and '.join(reasons)}")
    leaves = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    return buffers(model.backbone) | mapping.save(leaves, rows(model))


def rows(model: DenseModel) -> tuple[Row, ...]:
    """The key table of one model, for paths `collection/module/.../leaf`."""
    return (
        *under(backbone_rows(model.placement), "params/backbone/", "backbone."),
        *under(ADAPTER, rf"lora/backbone/{BLOCK}/(attn|mlp)/(\w+)/", rf"backbone.{THEIRS}.\3.\4."),
        *under(ADAPTER, r"lora/backbone/layers_(\d+)/downsample/(\w+)/", r"backbone.layers.\1.downsample.\2."),
        Row(r"params/projections/shared/level_(\d+)", (r"downsampler.downsample_\1.weight",), POINTWISE),
        Row(r"params/projections/(\w+)/level_(\d+)", (r"downsampler.\1.downsample_\2.weight",), POINTWISE),
        *(
            row
            for task, head in model.heads.items()
            for row in under(HEADS[head.kind], f"(?:params|batch_stats)/heads_{task}/", f"decoders.decoders.{task}.")
        ),
    )


def backbone_rows(placement: Placement | None) -> tuple[Row, ...]:
    """The original's table, where an adapted layer keeps its frozen weights one level down, as `linear`: also in
    stages of rank 0, whose layers are built by the adapter's class and have no update."""
    sites = ("qkv", "proj", "fc1", "fc2", "reduction")
    adapted = "|".join(site for site in sites if placement is not None and getattr(placement, site)) or "(?!)"
    return (
        *layer(rf"{BLOCK}/(attn|mlp)/({adapted})", rf"{THEIRS}.\3.\4.linear", TRANSPOSED),
        *layer(rf"layers_(\d+)/downsample/({adapted})", r"layers.\1.downsample.\2.linear", TRANSPOSED),
        # A checkpoint fits its config: nothing is resized.
        Row(rf"{BLOCK}/attn/(relative_position_bias_table)", (rf"{THEIRS}.attn.\3",), AS_IS),
        *ORIGINAL,
    )


def buffers(spec: SwinSpec) -> dict[str, np.ndarray]:
    """The reference's index and mask buffers: `[N, N]` int64, and `[windows, N, N]` float32 where a block shifts."""
    result = {}
    for stage, depth in enumerate(spec.depths):
        for block in range(depth):
            window, shift = spec.attention(stage, block)
            name = f"backbone.layers.{stage}.blocks.{block}"
            result[f"{name}.attn.relative_position_index"] = relative_position_index(window).astype(np.int64)
            if shift:
                result[f"{name}.attn_mask"] = shift_mask(spec.grid(stage), window, shift).copy()
    return result


def abstract(model: DenseModel) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every variable by path; nothing is computed."""
    side = model.backbone.image_size
    rngs = {"params": jax.random.key(0), "lora": jax.random.key(0)}
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return traverse_util.flatten_dict(jax.eval_shape(model.init, rngs, image), sep="/")

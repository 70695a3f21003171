"""Pretrained Swin backbones: the key tables of the original (Microsoft), timm and Hugging Face, and loading by them."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from flax import traverse_util

from mtlora_jax.errors import UserError
from mtlora_jax.listing import listed
from mtlora_jax.vision.swin import Swin, SwinSpec
from mtlora_jax.weights import mapping
from mtlora_jax.weights.hub import read
from mtlora_jax.weights.mapping import AS_IS, CONV, TRANSPOSED, Row, joined, layer, single
from mtlora_jax.weights.named import NamedLeaves
from mtlora_jax.weights.torch_pickle import CHOSEN

CUBIC_A = -0.75
"""The cubic kernel's parameter in torch's bicubic interpolation."""


def resize_table(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A relative position bias table for another window: bicubic, half-pixel centres, edges repeated.

    Args:
      table: `[(2w - 1)^2, K]`.
      shape: the wanted `((2v - 1)^2, K)`.

    Returns:
      The resized table, or `table` itself where no window explains the shapes.
    """
    sides = [round(n**0.5) for n in (table.shape[0], shape[0])]
    if table.ndim != 2 or table.shape[1] != shape[1] or [s * s for s in sides] != [table.shape[0], shape[0]]:
        return table
    weights = _cubic_weights(*sides)
    grid = table.astype(np.float64).reshape(sides[0], sides[0], -1)
    return np.einsum("yi,xj,ijk->yxk", weights, weights, grid).reshape(shape)


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """`[new, old]`: what each old sample gives to each new one."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        index = np.floor(centre).astype(int) + tap
        d = np.abs(centre - index)
        near = ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1
        far = CUBIC_A * (((d - 5) * d + 8) * d - 4)
        np.add.at(weights, (np.arange(new), index.clip(0, old - 1)), np.where(d <= 1, near, far))
    return weights


TABLE = single(AS_IS.load, lambda x: x, fit=resize_table)

# --- tables: paths below the backbone, names below the checkpoint's own prefix

BLOCK, THEIRS = r"layers_(\d+)/blocks_(\d+)", r"layers.\1.blocks.\2"
ORIGINAL: tuple[Row, ...] = (
    *layer("patch_embed/proj", "patch_embed.proj", CONV),
    *layer("patch_embed/norm", "patch_embed.norm"),
    Row("absolute_pos_embed", ("absolute_pos_embed",)),
    *layer(rf"{BLOCK}/(norm\d)", rf"{THEIRS}.\3"),
    *layer(rf"{BLOCK}/(attn|mlp)/(qkv|proj|fc1|fc2)", rf"{THEIRS}.\3.\4", TRANSPOSED),
    Row(
        rf"{BLOCK}/attn/relative_position_bias_table",
        (rf"{THEIRS}.attn.relative_position_bias_table",),
        TABLE,
    ),
    *layer(r"layers_(\d+)/downsample/(norm|reduction)", r"layers.\1.downsample.\2", TRANSPOSED),
)
"""Microsoft's names, and timm's before it moved patch merging."""

TIMM: tuple[Row, ...] = (
    # timm merges patches at the start of the next stage. The order of the 2 x 2 tokens is the original's.
    *(
        row
        for stage in range(8)
        for row in layer(
            rf"layers_{stage}/downsample/(norm|reduction)", rf"layers.{stage + 1}.downsample.\1", TRANSPOSED
        )
    ),
    *ORIGINAL,
)

HF_BLOCK = r"encoder.layers.\1.blocks.\2"
HF_QKV = tuple(rf"{HF_BLOCK}.attention.self.{part}" for part in ("query", "key", "value"))
HUGGING_FACE: tuple[Row, ...] = (
    *layer("patch_embed/proj", "embeddings.patch_embeddings.projection", CONV),
    *layer("patch_embed/norm", "embeddings.norm"),
    Row("absolute_pos_embed", ("embeddings.position_embeddings",)),
    *layer(rf"{BLOCK}/norm1", f"{HF_BLOCK}.layernorm_before"),
    *layer(rf"{BLOCK}/norm2", f"{HF_BLOCK}.layernorm_after"),
    Row(rf"{BLOCK}/attn/qkv/kernel", tuple(f"{part}.weight" for part in HF_QKV), joined(TRANSPOSED, 3)),
    Row(rf"{BLOCK}/attn/qkv/bias", tuple(f"{part}.bias" for part in HF_QKV), joined(AS_IS, 3)),
    *layer(rf"{BLOCK}/attn/proj", f"{HF_BLOCK}.attention.output.dense", TRANSPOSED),
    *layer(rf"{BLOCK}/mlp/fc1", f"{HF_BLOCK}.intermediate.dense", TRANSPOSED),
    *layer(rf"{BLOCK}/mlp/fc2", f"{HF_BLOCK}.output.dense", TRANSPOSED),
    Row(
        rf"{BLOCK}/attn/relative_position_bias_table",
        (f"{HF_BLOCK}.attention.self.relative_position_bias_table",),
        TABLE,
    ),
    *layer(r"layers_(\d+)/downsample/(norm|reduction)", r"encoder.layers.\1.downsample.\2", TRANSPOSED),
)

TORCHVISION: tuple[Row, ...] = (
    *layer("patch_embed/proj", "features.0.0", CONV),
    *layer("patch_embed/norm", "features.0.2"),
    Row("absolute_pos_embed", ("absolute_pos_embed",)),  # which it never has
    # Stages and the merging between them are numbered in one row.
    *(
        row
        for stage in range(8)
        for here, theirs in [(rf"layers_{stage}/blocks_(\d+)", rf"features.{2 * stage + 1}.\1")]
        for row in (
            *layer(rf"{here}/(norm\d)", rf"{theirs}.\2"),
            *layer(rf"{here}/attn/(qkv|proj)", rf"{theirs}.attn.\2", TRANSPOSED),
            *layer(rf"{here}/mlp/fc1", rf"{theirs}.mlp.0", TRANSPOSED),
            *layer(rf"{here}/mlp/fc2", rf"{theirs}.mlp.3", TRANSPOSED),
            Row(rf"{here}/attn/relative_position_bias_table", (rf"{theirs}.attn.relative_position_bias_table",), TABLE),
            *layer(rf"layers_{stage}/downsample/(norm|reduction)", rf"features.{2 * stage + 2}.\1", TRANSPOSED),
        )
    ),
)


def _merged(x: np.ndarray) -> np.ndarray:
    """Rows of four neighbours' channels `[C * 4, ...]`, in the order of an unfolding, as the original's `[4 * C, ...]`:
    by neighbour, down before right."""
    apart = x.reshape(len(x) // 4, 4, *x.shape[1:])[:, [0, 2, 1, 3]]
    return np.moveaxis(apart, 1, 0).reshape(x.shape)


def _unmerged(x: np.ndarray) -> np.ndarray:
    """The inverse of `_merged`."""
    apart = np.moveaxis(x.reshape(4, len(x) // 4, *x.shape[1:]), 0, 1)
    return apart[:, [0, 2, 1, 3]].reshape(x.shape)


UNFOLDED = single(_merged, _unmerged)
UNFOLDED_KERNEL = single(lambda x: _merged(x.T), lambda x: _unmerged(x).T)
MMSEG_BLOCK = r"stages.\1.blocks.\2"
MMSEG: tuple[Row, ...] = (
    *layer("patch_embed/proj", "patch_embed.projection", CONV),
    *layer("patch_embed/norm", "patch_embed.norm"),
    Row("absolute_pos_embed", ("absolute_pos_embed",)),
    *layer(rf"{BLOCK}/(norm\d)", rf"{MMSEG_BLOCK}.\3"),
    *layer(rf"{BLOCK}/attn/(qkv|proj)", rf"{MMSEG_BLOCK}.attn.w_msa.\3", TRANSPOSED),
    *layer(rf"{BLOCK}/mlp/fc1", rf"{MMSEG_BLOCK}.ffn.layers.0.0", TRANSPOSED),
    *layer(rf"{BLOCK}/mlp/fc2", rf"{MMSEG_BLOCK}.ffn.layers.1", TRANSPOSED),
    Row(
        rf"{BLOCK}/attn/relative_position_bias_table",
        (rf"{MMSEG_BLOCK}.attn.w_msa.relative_position_bias_table",),
        TABLE,
    ),
    Row(r"layers_(\d+)/downsample/reduction/kernel", (r"stages.\1.downsample.reduction.weight",), UNFOLDED_KERNEL),
    Row(r"layers_(\d+)/downsample/norm/scale", (r"stages.\1.downsample.norm.weight",), UNFOLDED),
    Row(r"layers_(\d+)/downsample/norm/bias", (r"stages.\1.downsample.norm.bias",), UNFOLDED),
)
"""mmsegmentation and mmdetection; they merge patches by unfolding, which orders the channels otherwise."""

OURS: tuple[Row, ...] = (
    Row(r".*/relative_position_bias_table", (r"\g<0>",), TABLE),
    Row(r".*", (r"\g<0>",)),
)

BACKBONE = "params/backbone/"
DROPPABLE = (
    r".*\.attn_mask",
    r".*\.relative_position_index",
    r"(norm|(swin\.)?layernorm)\.(weight|bias)",
    r"(head|head\.fc|classifier)\.(weight|bias)",
    r"(embeddings\.)?mask_token",
    r"(params/(?!backbone/)|batch_stats/).*",
    # mmsegmentation's norms of every stage's output and its decoders; SimMIM's decoder
    r"norm\d\.(weight|bias)",
    r"(decode_head|auxiliary_head|neck|bbox_head|rpn_head|roi_head|decoder)\..*",
)
"""Buffers that are computed here, and what sits on a backbone: a classifier with its norm, decoders."""


@dataclass(frozen=True)
class Family:
    """One way of naming a Swin's tensors.

    Attributes:
      name: whose it is.
      first: the name of the patch embedding's kernel, by which a checkpoint's prefix is found.
      rows: the table.
      only: regex of a key without which the family is another one of the same `first`.
    """

    name: str
    first: str
    rows: tuple[Row, ...]
    only: str = ""


FAMILIES = (
    Family("timm", "patch_embed.proj.weight", TIMM, only=r"layers\.3\.downsample\..*"),
    Family("torchvision", "features.0.0.weight", TORCHVISION, only=r"features\.1\.0\.attn\.qkv\.weight"),
    Family("mmsegmentation", "patch_embed.projection.weight", MMSEG),
    Family("Microsoft", "patch_embed.proj.weight", ORIGINAL),
    Family("Hugging Face", "embeddings.patch_embeddings.projection.weight", HUGGING_FACE),
    Family("mtlora_jax", "patch_embed/proj/kernel", OURS),
)


def recognise(source: Mapping[str, np.ndarray], where: str) -> tuple[Family, dict[str, np.ndarray]]:
    """The family of a state dict, and its tensors without their common prefix (`swin.`, `backbone.`, ...).

    Raises:
      UserError: it is not a Swin.
    """
    for family in FAMILIES:
        for key in source:
            prefix = key.removesuffix(family.first)
            if prefix == key or re.search(r"[^./]$", prefix):
                continue
            bare = {k.removeprefix(prefix): v for k, v in source.items()}
            if not family.only or any(re.fullmatch(family.only, k) for k in bare):
                return family, bare
    raise UserError(f"{where} is not a Swin checkpoint: none of its {len(source)} keys is a patch embedding's")


def load_backbone(source: str, spec: SwinSpec) -> dict[str, np.ndarray]:
    """A pretrained backbone as this library holds it.

    Reads Microsoft's `.pth`, timm's and Hugging Face's `.safetensors` or `.bin`, and files written here.
    Classifiers, decoders and buffers are dropped; relative position biases are resized where the window differs.

    Args:
      source: a path, a hub name (`microsoft/swin-tiny-patch4-window7-224`), or a name of shipped weights.
      spec: the wanted shape.

    Returns:
      `{path: float32 array}`, paths below `params/backbone/`.

    Raises:
      UserError: no such file, damaged, no Swin, of another size, or with keys that have no place here, adapters
        among them.
    """
    return from_state_dict(read(source)[0], spec, source)


def load_weights(source: str, spec: SwinSpec) -> NamedLeaves:
    """Everything a source can start a model with.

    Returns:
      `{path: array}`, paths `collection/module/.../leaf`: of a whole model, if `python -m mtlora_jax.convert` wrote
      one, else of a backbone.

    Raises:
      UserError: see `load_backbone`.
    """
    tensors, about = read(source)
    family, bare = recognise(tensors, source)
    whole = {} if "model" not in about else {k: x for k, x in tensors.items() if not k.startswith(BACKBONE)}
    backbone = from_state_dict({k: x for k, x in tensors.items() if k not in whole}, spec, source)
    dropped = [] if whole else [key for key in bare if any(re.fullmatch(pattern, key) for pattern in DROPPABLE)]
    chosen = f" (its {about[CHOSEN]})" if CHOSEN in about else ""
    left = f", {len(dropped)} of its tensors left: {listed(dropped)}" if dropped else ""
    where = f"{source}{chosen} in {family.name}'s names{left}"
    return NamedLeaves(whole | {BACKBONE + path: leaf for path, leaf in backbone.items()}, where)


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], spec: SwinSpec, where: str = "the checkpoint"
) -> dict[str, np.ndarray]:
    """`load_backbone` of tensors already in memory."""
    family, bare = recognise(state_dict, where)
    return mapping.load(bare, abstract(spec), family.rows, DROPPABLE, where)


def abstract(spec: SwinSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter by path; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, 3), np.float32)
    shapes = jax.eval_shape(Swin(spec).init, jax.random.key(0), image)
    return traverse_util.flatten_dict(shapes["params"], sep="/")


def infer(state_dict: Mapping[str, np.ndarray], where: str = "the checkpoint") -> SwinSpec:
    """The spec that a Swin's tensors fit. Its image is the smallest whose last stage is one window, or what a
    position embedding says."""
    family, bare = recognise(state_dict, where)

    def find(path: str) -> np.ndarray | None:
        names, layout = mapping.lookup(path, family.rows)
        return layout.load(*(np.asarray(bare[n]) for n in names)) if set(names) <= set(bare) else None

    def count(template: str) -> int:
        return next(i for i in itertools.count() if find(template.format(i)) is None)

    stages = count("layers_{}/blocks_0/norm1/scale")
    depths = tuple(count(f"layers_{i}/blocks_{{}}/norm1/scale") for i in range(stages))
    tables = [find(f"layers_{i}/blocks_0/attn/relative_position_bias_table") for i in range(stages)]
    first, fc1, position = (
        find(path) for path in ("patch_embed/proj/kernel", "layers_0/blocks_0/mlp/fc1/kernel", "absolute_pos_embed")
    )
    if not stages or fc1 is None or any(table is None for table in tables):
        raise UserError(f"{where} is not a complete Swin: its first block lacks tensors")
    patch, _, _, dim = first.shape
    window = (math.isqrt(tables[0].shape[0]) + 1) // 2
    side = window * 2 ** (stages - 1) if position is None else math.isqrt(position.shape[1])
    return SwinSpec(
        image_size=side * patch,
        window=window,
        dim=dim,
        depths=depths,
        heads=tuple(table.shape[1] for table in tables),
        patch=patch,
        mlp_ratio=fc1.shape[1] / dim,
        qkv_bias=find("layers_0/blocks_0/attn/qkv/bias") is not None,
        absolute_position=position is not None,
        patch_norm=find("patch_embed/norm/scale") is not None,
    )

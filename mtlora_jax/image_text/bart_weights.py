"""BART in Hugging Face folders: shapes from `config.json`, leaves by a key table, both ways.

facebook's own files hold the model without its head (`BartModel`): names without `model.`, copies of the word
embedding, no `final_logits_bias`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtlora_jax.engine import tables
from mtlora_jax.files import write_json
from mtlora_jax.image_text.bart import Bart, BartSpec, init
from mtlora_jax.image_text.visual import VisualSpec
from mtlora_jax.weights import config, safetensors
from mtlora_jax.weights.config import CONFIG
from mtlora_jax.weights.lazy import Lazy
from mtlora_jax.weights.mapping import AS_IS, TRANSPOSED, Layout, MappedLeaves, MappedTensors, Row, single, stacked

BIAS = "final_logits_bias"
SHARD = 4 << 30
"""Bytes of a written file, at most."""
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
COPIES += ("encoder.visual_embedding.obj_order_embedding.weight",)
"""Under what other names the word embedding is stored."""


# --- shapes

PUBLISHED: Mapping[str, BartSpec] = {
    "facebook/bart-base": BartSpec(),
    "facebook/bart-large": BartSpec(
        width=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_heads=16,
        decoder_heads=16,
        encoder_hidden=4096,
        decoder_hidden=4096,
        attention_dropout=0.0,
        activation_dropout=0.0,
    ),
}
"""Shapes that are known without their files: counting what a recipe trains needs no download."""


def read_spec(folder: Path) -> BartSpec:
    """The shape from a folder's `config.json`; see `weights.config.read_spec`."""
    return config.read_spec(folder, spec_of)


ALWAYS: Mapping[str, Any] = {
    "activation_function": "gelu",
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "static_position_embeddings": False,
}
"""What every model of the family says; BART's relatives say otherwise, and are not computed here."""


def spec_of(config: Mapping[str, Any]) -> BartSpec:
    """The shape that a Hugging Face config describes, without pictures.

    Raises:
      KeyError: a size is missing.
      ValueError: the model is of a kind that `Bart` does not compute.
    """
    if (kind := config.get("model_type", "bart")) != "bart":
        raise ValueError(f"model_type {kind!r} is not supported, only bart is")
    for key, value in ALWAYS.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}: only {value!r} is supported")
    spec = BartSpec(
        vocab_size=config["vocab_size"],
        width=config["d_model"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        encoder_heads=config["encoder_attention_heads"],
        decoder_heads=config["decoder_attention_heads"],
        encoder_hidden=config["encoder_ffn_dim"],
        decoder_hidden=config["decoder_ffn_dim"],
        positions=config["max_position_embeddings"],
        scale_embedding=config.get("scale_embedding", False),
        dropout=config.get("dropout", 0.1),
        attention_dropout=config.get("attention_dropout", 0.0),
        activation_dropout=config.get("activation_dropout", 0.0),
        init_std=config.get("init_std", 0.02),
        bos=config.get("bos_token_id", 0),
        pad=config.get("pad_token_id", 1),
        eos=config.get("eos_token_id", 2),
        start=config.get("decoder_start_token_id", config.get("eos_token_id", 2)),
    )
    if problem := spec.problems():
        raise ValueError(problem)
    return spec


def visual_spec(config: Mapping[str, Any]) -> VisualSpec:
    """The visual options that VL-BART's configs hold beside BART's.

    Raises:
      KeyError: the width of features is missing.
      ValueError: an option that is not supported.
    """
    if config.get("share_vis_lang_layer_norm", False):
        raise ValueError("share_vis_lang_layer_norm is not supported: text and pictures have norms of their own")
    if config.get("vis_use_transformer", False):
        raise ValueError("vis_use_transformer is not supported")
    if (count := config.get("pos_dim", 4)) != 4:
        raise ValueError(f"pos_dim is {count}: boxes have 4 numbers")
    norm = "each" if config.get("individual_vis_layer_norm", True) else "sum"
    return VisualSpec(
        features=config["feat_dim"],
        tokens=config.get("n_boxes", 36),
        images=config.get("n_images", 2),
        pool=config.get("downsample", True),
        norm=norm if config.get("use_vis_layer_norm", True) else "none",
        order=config.get("use_vis_order_embedding", True),
    )


def config_of(spec: BartSpec, dtype: str) -> dict[str, Any]:
    """The shape as a `config.json` that transformers reads."""
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "vocab_size": spec.vocab_size,
        "d_model": spec.width,
        "encoder_layers": spec.encoder_layers,
        "decoder_layers": spec.decoder_layers,
        "encoder_attention_heads": spec.encoder_heads,
        "decoder_attention_heads": spec.decoder_heads,
        "encoder_ffn_dim": spec.encoder_hidden,
        "decoder_ffn_dim": spec.decoder_hidden,
        "max_position_embeddings": spec.positions,
        "scale_embedding": spec.scale_embedding,
        "dropout": spec.dropout,
        "attention_dropout": spec.attention_dropout,
        "activation_dropout": spec.activation_dropout,
        "init_std": spec.init_std,
        "bos_token_id": spec.bos,
        "pad_token_id": spec.pad,
        "eos_token_id": spec.eos,
        "decoder_start_token_id": spec.start,
        "forced_eos_token_id": spec.eos,
        "is_encoder_decoder": True,
        "num_hidden_layers": spec.encoder_layers,
        "torch_dtype": dtype,
        **ALWAYS,
    }


# --- leaves

FLAT = single(lambda x: x.reshape(-1), lambda x: x[None])
"""`(1, V)` to `[V]`."""


def rows(spec: BartSpec, prefix: str = "model.") -> tuple[Row, ...]:
    """The key table of a model of that shape, for paths `params/module/.../leaf`.

    Args:
      prefix: what stands before all names but that of the bias of the head.
    """

    def of_layers(side: str, count: int) -> tuple[Row, ...]:
        def row(path: str, name: str, layout: Layout = AS_IS) -> Row:
            names = tuple(f"{prefix}{side}.layers.{i}.{name}" for i in range(count))
            return Row(f"params/{side}/layers/{path}", names, stacked(layout, count))

        return (
            row(r"(self_attn|encoder_attn)/(\w+)/kernel", r"\1.\2.weight", TRANSPOSED),
            row(r"(self_attn|encoder_attn)/(\w+)/bias", r"\1.\2.bias"),
            row(r"(fc\d)/kernel", r"\1.weight", TRANSPOSED),
            row(r"(\w+)/scale", r"\1.weight"),
            row(r"(\w+)/bias", r"\1.bias"),
        )

    visual = f"{prefix}encoder.visual_embedding"
    return (
        Row("params/shared/embedding", (f"{prefix}shared.weight",)),
        Row(f"params/{BIAS}", (BIAS,), FLAT),
        Row(r"params/(encoder|decoder)/embed_positions", (rf"{prefix}\1.embed_positions.weight",)),
        Row(r"params/(encoder|decoder)/layernorm_embedding/scale", (rf"{prefix}\1.layernorm_embedding.weight",)),
        Row(r"params/(encoder|decoder)/layernorm_embedding/bias", (rf"{prefix}\1.layernorm_embedding.bias",)),
        *of_layers("encoder", spec.encoder_layers),
        *of_layers("decoder", spec.decoder_layers),
        *_visual("features", f"{visual}.feat_embedding"),
        *_visual("boxes", f"{visual}.absolute_vis_pos_embedding"),
        Row("params/visual_embedding/sum_norm/scale", (f"{visual}.layer_norm.weight",)),
        Row("params/visual_embedding/sum_norm/bias", (f"{visual}.layer_norm.bias",)),
        Row("params/visual_embedding/image_order", (f"{visual}.img_order_embedding.weight",)),
    )


def _visual(path: str, name: str) -> tuple[Row, ...]:
    """A linear map, 0 of a pair there, and its norm."""
    return (
        Row(f"params/visual_embedding/{path}/kernel", (f"{name}.0.weight",), TRANSPOSED),
        Row(f"params/visual_embedding/{path}/bias", (f"{name}.0.bias",)),
        Row(f"params/visual_embedding/{path}_norm/scale", (f"{name}.1.weight",)),
        Row(f"params/visual_embedding/{path}_norm/bias", (f"{name}.1.bias",)),
    )


def abstract_leaves(spec: BartSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape}` of a model without adapters."""
    return tables.flatten(jax.eval_shape(lambda: init(Bart(spec), 0)))


class Whole(Lazy):
    """A file's tensors under the names of the whole model: with `model.`, and a bias of the head, if only zeros."""

    def __init__(self, tensors: Mapping[str, np.ndarray], vocab_size: int):
        bare = "shared.weight" in tensors
        self._tensors = tensors
        self._names = {f"model.{name}" if bare and name != BIAS else name: name for name in tensors}
        self._zeros = None if BIAS in tensors else np.zeros((1, vocab_size), np.float32)

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        if self._zeros is not None:
            yield BIAS

    def __len__(self) -> int:
        return len(self._names) + (self._zeros is not None)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._zeros if name == BIAS and self._zeros is not None else self._tensors[self._names[name]]


def open_bart(folder: Path) -> tuple[BartSpec, MappedLeaves]:
    """A folder's shape and leaves; a leaf is read, in the dtype it is stored in, when it is asked for.

    Raises:
      UserError: the folder lacks a file or a tensor, or holds more than its config says; the message names it.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    return spec, leaves_of(safetensors.open_folder(folder), spec, str(folder))


def leaves_of(tensors: Mapping[str, np.ndarray], spec: BartSpec, where: str) -> MappedLeaves:
    """The leaves of a model of that shape among tensors under Hugging Face's names.

    Raises:
      UserError: a tensor is missing, or left over.
    """
    droppable = tuple(rf"(model\.)?{re.escape(name)}" for name in COPIES)
    return MappedLeaves(Whole(tensors, spec.vocab_size), abstract_leaves(spec), rows(spec), droppable, where)


def save_bart(folder: Path, spec: BartSpec, params: Mapping) -> None:
    """Writes a model's text part as a Hugging Face folder.

    Args:
      params: the `params` collection, without adapters.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params = {name: of for name, of in params.items() if name != "visual_embedding"}
    leaves = tables.flatten({"params": params})
    tensors = MappedTensors(leaves, rows(spec))
    safetensors.write_folder(folder, tensors, tensors.sizes(), SHARD)
    # transformers reads all of them in the dtype that is told: the widest, so that none is rounded.
    widest = max((np.dtype(leaf.dtype) for leaf in leaves.values()), key=lambda dtype: dtype.itemsize)
    write_json(folder / CONFIG, config_of(spec, str(widest)))

"""Llama models in Hugging Face folders: the key table of their weights, and their `config.json`, both ways.

Theirs are `[out, in]` tensors of one layer each, ours `[layers, in, out]`.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtlora_jax.engine import tables
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json
from mtlora_jax.text.llama import Llama, LlamaSpec, init
from mtlora_jax.text.rope import RopeScaling
from mtlora_jax.weights import config, safetensors
from mtlora_jax.weights.config import CONFIG
from mtlora_jax.weights.hub import tensors_in
from mtlora_jax.weights.mapping import AS_IS, TRANSPOSED, Layout, MappedLeaves, MappedTensors, Row, stacked

KINDS = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Kinds of models that `Llama` computes, by `model_type`, and their classes in transformers."""
SHARD = 4 << 30
"""Bytes of a written file, at most."""


# --- shapes


def read_spec(folder: Path) -> LlamaSpec:
    """The shape from a folder's `config.json`; see `weights.config.read_spec`."""
    return config.read_spec(folder, spec_of)


def spec_of(config: Mapping[str, Any]) -> LlamaSpec:
    """The shape that a Hugging Face config describes, in the form of transformers 4 or 5.

    Raises:
      KeyError: a size is missing.
      ValueError: the model is of a kind that `Llama` does not compute.
    """
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "some method") if isinstance(quantised, Mapping) else quantised
        raise ValueError(f"the model is quantised ({method}), which is not read; give the original one")
    kind = config.get("model_type", "llama")
    if kind not in KINDS:
        raise ValueError(f"model_type {kind!r} is not supported: {', '.join(KINDS)} are")
    if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"hidden_act {act!r} is not supported, only silu is")
    windowed = config.get("use_sliding_window", kind == "mistral") and config.get("sliding_window", 4096)
    if windowed and kind != "mistral":
        raise ValueError("a sliding window of some layers only is not supported; set use_sliding_window to false")
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    positions = config.get("max_position_embeddings", 2048)
    spec = LlamaSpec(
        vocab_size=config["vocab_size"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim") or 0,
        rope_theta=float(rope.pop("rope_theta", config.get("rope_theta", 1e4))),
        rope_scaling=_scaling(rope, positions),
        rms_eps=config.get("rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", False),
        qkv_bias=config.get("attention_bias", kind == "qwen2"),
        o_bias=kind in ("llama", "qwen3") and config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        qk_norm=kind == "qwen3",
        window=windowed or 0,
        max_positions=positions,
    )
    if problem := spec.problems():
        raise ValueError(problem)
    return spec


def _scaling(rope: Mapping[str, Any], positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "dynamic", "llama3"):
        raise ValueError(f"rope scaling {kind!r} is not supported: linear, dynamic and llama3 are")
    # transformers reads no other length of pretraining for `dynamic` than that of the model.
    original = positions if kind == "dynamic" else rope.get("original_max_position_embeddings") or positions
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        low=float(rope.get("low_freq_factor", 1.0)),
        high=float(rope.get("high_freq_factor", 4.0)),
        original=original,
    )


def config_of(spec: LlamaSpec, dtype: str) -> dict[str, Any]:
    """The shape as a `config.json` that transformers reads. Raises UserError where no kind of model there has it."""
    kind = "mistral" if spec.window else "qwen2" if spec.qkv_bias and not spec.o_bias else "llama"
    kind = "qwen3" if spec.qk_norm else kind
    config = {
        "architectures": [KINDS[kind]],
        "model_type": kind,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": spec.rms_eps,
        "rope_theta": spec.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": dtype,
    }
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = spec.qkv_bias
    if kind == "llama":
        config["mlp_bias"] = spec.mlp_bias
    if kind == "mistral":
        config["sliding_window"] = spec.window
    if spec.rope_scaling is not None:
        scaling = asdict(spec.rope_scaling)
        config["rope_scaling"] = {
            "rope_type": scaling["kind"],
            "factor": scaling["factor"],
            "original_max_position_embeddings": scaling["original"],
        }
        if scaling["kind"] == "llama3":
            config["rope_scaling"] |= {"low_freq_factor": scaling["low"], "high_freq_factor": scaling["high"]}
    told = spec_of(config)
    wanted = replace(spec, head_dim=spec.head_width)
    if differing := [of.name for of in fields(spec) if getattr(told, of.name) != getattr(wanted, of.name)]:
        raise UserError(f"no kind of model there has this shape: as {kind} its {', '.join(differing)} would differ")
    return config


# --- leaves


def rows(layers: int) -> tuple[Row, ...]:
    """The key table of a decoder of that many layers, for paths `params/module/.../leaf`."""

    def of_layers(path: str, name: str, layout: Layout = AS_IS) -> Row:
        names = tuple(f"model.layers.{i}.{name}" for i in range(layers))
        return Row(f"params/layers/{path}", names, stacked(layout, layers))

    return (
        Row("params/embed_tokens/embedding", ("model.embed_tokens.weight",)),
        Row("params/norm/scale", ("model.norm.weight",)),
        Row("params/lm_head/kernel", ("lm_head.weight",), TRANSPOSED),
        of_layers(r"(self_attn|mlp)/(\w+)/kernel", r"\1.\2.weight", TRANSPOSED),
        of_layers(r"(self_attn|mlp)/(\w+)/bias", r"\1.\2.bias"),
        of_layers(r"self_attn/([qk]_norm)/scale", r"self_attn.\1.weight"),
        of_layers(r"(\w+)/scale", r"\1.weight"),
    )


def abstract_leaves(spec: LlamaSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape}` of a model without adapters."""
    return tables.flatten(jax.eval_shape(lambda: init(Llama(spec), 0)))


def open_llama(folder: Path) -> tuple[LlamaSpec, MappedLeaves]:
    """A folder's shape and leaves; a leaf is read, in the dtype it is stored in, when it is asked for.

    Raises:
      UserError: the folder lacks a file or a tensor, holds more than its config says, or numbers that are quantised;
        the message names it.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    tensors = tensors_in(folder)
    tensors.dtypes()
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if spec.tied and {head, embedding} <= set(tensors) and not np.array_equal(tensors[head], tensors[embedding]):
        raise UserError(
            f"{folder}: {CONFIG} says that the head is the embedding, and {head} differs from it: to use it, say "
            "there that tie_word_embeddings is false"
        )
    # Old files hold frequencies that are computed here; a tied head is the embedding.
    droppable = (r".*rotary_emb\.inv_freq", *((r"lm_head\.weight",) if spec.tied else ()))
    return spec, MappedLeaves(tensors, abstract_leaves(spec), rows(spec.layers), droppable, str(folder))


def save_llama(
    folder: Path, spec: LlamaSpec, params: Mapping, shard: int = SHARD, dtypes: Mapping[str, np.dtype] | None = None
) -> None:
    """Writes a model as a Hugging Face folder.

    Args:
      params: the `params` collection, without adapters.
      shard: bytes of a file, at most; more weights are written as shards with an index.
      dtypes: of tensors by their names, where they are not their leaves'.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = tables.flatten({"params": params})
    tensors = MappedTensors(leaves, rows(spec.layers), dtypes)
    safetensors.write_folder(folder, tensors, tensors.sizes(), shard)
    write_json(folder / CONFIG, config_of(spec, str(np.dtype(next(iter(leaves.values())).dtype))))

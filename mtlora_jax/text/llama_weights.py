"""Llama weights in Hugging Face folders, read leaf by leaf and written back.

A folder holds `config.json` and `model.safetensors`, or `model.safetensors.index.json` and the shards it names. Theirs
are `[out, in]` tensors of one layer each, ours `[layers, in, out]`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mtlora_jax.engine import tables
from mtlora_jax.errors import UserError
from mtlora_jax.text.llama import Llama, LlamaSpec, init
from mtlora_jax.text.rope import RopeScaling

ASSETS = Path(__file__).parents[1] / "assets"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 4 << 30
"""Bytes of a written file, at most."""
DROPPABLE = r"rotary_emb\.inv_freq$"
"""Tensors that old files hold and nobody needs."""


def asset(name: str) -> Path:
    """The folder of an embedded model."""
    return ASSETS / name


def folder_of(name: str) -> Path:
    """Where a model lies: an embedded one, a folder, or a hub name, which is fetched once into the hub's cache.

    Raises:
      UserError: there is no such folder and no such model, or the hub cannot be reached.
    """
    if (asset(name) / "config.json").exists():
        return asset(name)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(f"init_from: there is no folder {name}, and it is no hub name such as meta-llama/Llama-2-7b-hf")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]))
    except Exception as error:
        raise UserError(f"init_from: {name} is no folder, and the hub did not give it: {_short(error)}") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# --- shapes


def read_spec(folder: Path) -> LlamaSpec:
    """The decoder's shape from `config.json`.

    Raises:
      UserError: there is none, or it describes another kind of model; the message names the file and the key.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no model: there is no config.json") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    try:
        return spec_of(config)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def spec_of(config: Mapping[str, Any]) -> LlamaSpec:
    """The shape that a Hugging Face config describes, in the form of transformers 4 or 5.

    Raises:
      KeyError: a size is missing.
      ValueError: the model is of a kind that `Llama` does not compute.
    """
    kind = config.get("model_type", "llama")
    if kind not in ("llama", "qwen2", "mistral"):
        raise ValueError(f"model_type {kind!r} is not supported: llama, qwen2 and mistral are")
    if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"hidden_act {act!r} is not supported, only silu is")
    windowed = config.get("sliding_window") and config.get("use_sliding_window", kind == "mistral")
    if windowed and config["sliding_window"] < config.get("max_position_embeddings", 0):
        raise ValueError("attention in a sliding window is not supported; set sliding_window to null for short texts")
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
        o_bias=kind == "llama" and config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
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
    original = rope.get("original_max_position_embeddings") or positions
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        low=float(rope.get("low_freq_factor", 1.0)),
        high=float(rope.get("high_freq_factor", 4.0)),
        original=original,
    )


def config_of(spec: LlamaSpec, dtype: str) -> dict[str, Any]:
    """The shape as a `config.json` that transformers reads."""
    qwen = spec.qkv_bias and not spec.o_bias
    config = {
        "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen else "llama",
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
    if not qwen:
        config |= {"attention_bias": spec.qkv_bias, "mlp_bias": spec.mlp_bias}
    if spec.rope_scaling is not None:
        scaling = asdict(spec.rope_scaling)
        config["rope_scaling"] = {
            "rope_type": scaling["kind"],
            "factor": scaling["factor"],
            "original_max_position_embeddings": scaling["original"],
        }
        if scaling["kind"] == "llama3":
            config["rope_scaling"] |= {"low_freq_factor": scaling["low"], "high_freq_factor": scaling["high"]}
    return config


# --- names


def abstract_leaves(spec: LlamaSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape}` of a model without adapters."""
    return tables.flatten(jax.eval_shape(lambda: init(Llama(spec), 0)))


def their_names(path: str, layers: int) -> tuple[str, ...]:
    """The tensors that one of our leaves is made of: one, or one a layer."""
    parts = path.split("/")[1:]
    if parts[0] == "lm_head":
        return ("lm_head.weight",)
    name = ".".join(parts[:-1]) + (".bias" if parts[-1] == "bias" else ".weight")
    if parts[0] != "layers":
        return (f"model.{name}",)
    return tuple(f"model.layers.{i}.{name.removeprefix('layers.')}" for i in range(layers))


def is_transposed(path: str) -> bool:
    return path.endswith("/kernel")


class StoredLeaves(Mapping):
    """`{our path: array}` of a folder; a leaf is read, in the dtype it is stored in, when it is asked for."""

    def __init__(self, folder: Path, spec: LlamaSpec):
        self._folder, self._spec = Path(folder), spec
        self._shapes = {path: leaf.shape for path, leaf in abstract_leaves(spec).items()}
        self._files = _index(self._folder)
        wanted = {name for path in self._shapes for name in their_names(path, spec.layers)}
        if missing := sorted(wanted - set(self._files)):
            raise UserError(f"{folder} lacks {_some(missing)}, which its config.json asks for")
        extra = [name for name in sorted(set(self._files) - wanted) if not tables.match(((DROPPABLE, True),), name)]
        if spec.tied:
            extra = [name for name in extra if name != "lm_head.weight"]
        if extra:
            raise UserError(f"{folder} holds {_some(extra)}, which its config.json has no place for")

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, path: str) -> tuple[int, ...]:
        """A leaf's shape, without reading it."""
        return self._shapes[path]

    def __getitem__(self, path: str) -> np.ndarray:
        shape, names = self._shapes[path], their_names(path, self._spec.layers)
        leaf = None
        for i, name in enumerate(names):
            tensor = self._read(name)
            tensor = tensor.T if is_transposed(path) else tensor
            stacked = len(shape) > tensor.ndim
            if tensor.shape != shape[stacked:]:
                found, wanted = (self._theirs(path, s) for s in (tensor.shape, shape[stacked:]))
                raise UserError(f"{self._files[name]}: {name} has shape {found}, its config.json makes it {wanted}")
            if leaf is None:
                leaf = np.empty(shape, tensor.dtype)
            leaf[i if stacked else ...] = tensor
        return leaf

    def _theirs(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1] if is_transposed(path) else shape

    def _read(self, name: str) -> np.ndarray:
        import ml_dtypes  # noqa: F401  (safetensors looks bfloat16 up in it)
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._files[name], framework="numpy") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self._files[name]} cannot be read, is it truncated? {_short(error)}") from None


def _index(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).exists():
        try:
            names = json.loads((folder / INDEX).read_text())["weight_map"]
        except (ValueError, KeyError):
            raise UserError(f"{folder / INDEX} is no index: it has no weight_map") from None
        files = {name: folder / file for name, file in names.items()}
        if lost := next((file for file in files.values() if not file.exists()), None):
            raise UserError(f"{lost} is missing, {folder / INDEX} names it")
        return files
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"{folder} holds no weights: there is neither {WEIGHTS} nor {INDEX}")
    try:
        with safe_open(path, framework="numpy") as file:
            return dict.fromkeys(file.keys(), path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read, is it truncated? {_short(error)}") from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - tables.MAX_LISTED} more" if len(names) > tables.MAX_LISTED else ""
    return ", ".join(names[: tables.MAX_LISTED]) + more


def read_llama(folder: Path) -> tuple[LlamaSpec, StoredLeaves]:
    """A folder's shape and leaves.

    Raises:
      UserError: the folder lacks a file or a tensor, or holds more than its config says; the message names it.
    """
    spec = read_spec(folder)
    return spec, StoredLeaves(folder, spec)


def save_llama(folder: Path, spec: LlamaSpec, params: Mapping, shard: int = SHARD) -> None:
    """Writes a model as a Hugging Face folder, in the dtype its leaves have.

    Args:
      params: the `params` collection, without adapters.
      shard: bytes of a file, at most; more weights are written as shards with an index.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = tables.flatten({"params": params})
    files: list[dict[str, tuple[str, int]]] = [{}]
    room = shard
    for path, leaf in leaves.items():
        for i, name in enumerate(names := their_names(path, spec.layers)):
            size = leaf.nbytes // len(names)
            if size > room and files[-1]:
                files.append({})
                room = shard
            files[-1][name] = path, i
            room -= size

    def tensor(path: str, i: int) -> np.ndarray:
        leaf = np.asarray(leaves[path][i] if path.startswith("params/layers/") else leaves[path])
        return np.ascontiguousarray(leaf.T if is_transposed(path) else leaf)

    weight_map = {}
    for number, file in enumerate(files, 1):
        name = WEIGHTS if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file({key: tensor(*at) for key, at in file.items()}, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(file, name)
    if len(files) > 1:
        total = sum(leaf.nbytes for leaf in leaves.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
    dtype = str(next(iter(leaves.values())).dtype)
    (folder / "config.json").write_text(json.dumps(config_of(spec, dtype), indent=1))

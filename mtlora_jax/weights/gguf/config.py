"""A GGUF file's metadata as the `config.json` of a Hugging Face folder."""

from typing import Any

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.weights.gguf.tensors import FREQUENCIES, told

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of Llama 3.1 and later; a file holds only the frequencies that come of it."""


def config_of(reader: Any) -> dict[str, Any]:
    """Raises UserError for another architecture, or a size that is missing."""
    kind = told(reader, "general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(f"architecture {kind!r} is not read: {', '.join(ARCHITECTURES)} are")

    def of(key: str, *otherwise: Any) -> Any:
        value = told(reader, f"{kind}.{key}", *otherwise)
        if value is None:
            raise UserError(f"it does not say {kind}.{key}")
        return value

    heads, names = of("attention.head_count"), {tensor.name: tensor for tensor in reader.tensors}
    theta, width = of("rope.freq_base", 1e4), of("rope.dimension_count", of("embedding_length") // heads)
    if "token_embd.weight" not in names:
        raise UserError("it holds no token_embd.weight")
    made = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": int(names["token_embd.weight"].shape[1]),
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": of("attention.head_count_kv", heads),
        "head_dim": of("attention.key_length", width),
        "hidden_act": "silu",
        "max_position_embeddings": of("context_length", 2048),
        # Stored in single precision: 1e-05 is not to become 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(of("attention.layer_norm_rms_epsilon")))),
        "rope_theta": float(theta),
        "rope_scaling": scaling_of(reader, kind, theta, width),
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": "float32",
    }
    if kind == "llama":
        made |= {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_up.bias" in names}
    for token in ("bos", "eos"):
        if (number := told(reader, f"tokenizer.ggml.{token}_token_id")) is not None:
            made[f"{token}_token_id"] = number
    return made


def scaling_of(reader: Any, kind: str, theta: float, width: int) -> dict[str, Any] | None:
    """How rotary frequencies are scaled. Raises UserError for a way that is not read."""
    if (way := told(reader, f"{kind}.rope.scaling.type", "none")) not in ("none", "linear"):
        raise UserError(f"rotary scaling {way!r} is not read: linear is, and that of Llama 3")
    if way == "linear":
        return {"rope_type": "linear", "factor": told(reader, f"{kind}.rope.scaling.factor", 1.0)}
    stored = [tensor.data for tensor in reader.tensors if tensor.name == FREQUENCIES]
    if not stored:
        return None
    divisors = np.asarray(stored[0], np.float64)
    frequencies, factor = float(theta) ** (-np.arange(0, width, 2) / width), float(divisors.max())
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    kept = (turns - LLAMA3["low_freq_factor"]) / (LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"])
    kept = np.clip(kept, 0, 1)
    if not np.allclose(divisors, 1 / ((1 - kept) / factor + kept), rtol=1e-4):
        raise UserError(f"{FREQUENCIES} is not Llama 3's: such a scaling is not read")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}

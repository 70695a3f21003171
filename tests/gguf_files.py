"""Small GGUF files: two layers in every format that is read, made-up weights, and a tokenizer of either kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize

D, HIDDEN, HEADS, KV_HEADS, LAYERS = 256, 256, 8, 4, 2
MERGES = ("t h", "th e", "Ġ the", "i n", "a n", "an d", "Ġ and", "Ġ c", "Ġc at", "a t")
PIECES = ("▁", "▁t", "▁the", "th", "the", "he", "at", "▁c", "▁cat", "an", "and", "▁and", "in", "!", ".", "1", "2")
FORMATS = {  # by a part of the name; the others are F32
    "attn_q": "Q8_0",
    "attn_k": "Q5_1",
    "attn_v": "Q4_1",
    "attn_output": "Q4_0",
    "ffn_gate": "Q5_0",
    "ffn_up": "F16",
    "ffn_down": "BF16",
    "token_embd": "Q6_K",
}


def write(path: Path, tokenizer: str = "gpt2", arch: str = "llama", changes: Mapping[str, Any] | None = None) -> Path:
    """Writes one.

    Args:
      tokenizer: `gpt2` or `llama`, which is sentencepiece's.
      changes: `formats` by a part of a tensor's name; `more` tensors; `pre`, what the tokenizer cuts by; `bias`;
        `tied`; metadata by other keys.
    """
    changes = dict(changes or {})
    formats, more, pre = FORMATS | changes.pop("formats", {}), changes.pop("more", {}), changes.pop("pre", "gpt-2")
    bias, tied = changes.pop("bias", False), changes.pop("tied", True)
    tokens, kinds, scores = _bytes() if tokenizer == "gpt2" else _pieces()
    writer = GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(D // HEADS)
    writer.add_rope_freq_base(1e5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if tokenizer == "gpt2":
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(list(MERGES))
    else:
        writer.add_token_scores(scores)
        writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}</s>{% endfor %}")
    for key, value in changes.items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    for name, tensor in (weights(len(tokens), bias, tied, arch == "qwen3") | more).items():
        kind = next((of for part, of in formats.items() if part in name and tensor.ndim > 1), "F32")
        writer.add_tensor(name, stored(tensor, kind), raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(vocabulary: int, bias: bool, tied: bool, normed: bool = False) -> dict[str, np.ndarray]:
    """Tensors by GGUF's names, drawn one after the other."""
    rng = np.random.default_rng(0)
    wide = D // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, D), "output_norm.weight": (D,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{norm}.weight": (D,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.attn_{x}.weight": (D if x == "q" else wide, D) for x in "qkv"}
        shapes |= {f"blk.{i}.attn_output.weight": (D, D), f"blk.{i}.ffn_down.weight": (D, HIDDEN)}
        shapes |= {f"blk.{i}.ffn_{x}.weight": (HIDDEN, D) for x in ("gate", "up")}
        if bias:
            shapes |= {f"blk.{i}.attn_{x}.bias": (D if x == "q" else wide,) for x in "qkv"}
        if normed:
            shapes |= {f"blk.{i}.attn_{x}_norm.weight": (D // HEADS,) for x in "qk"}
    if not tied:
        shapes["output.weight"] = (vocabulary, D)
    drawn = {name: rng.normal(size=shape, scale=0.08).astype(np.float32) for name, shape in shapes.items()}
    return {name: 1 + of if "norm" in name else of for name, of in drawn.items()}


def stored(tensor: np.ndarray, kind: str) -> np.ndarray:
    """A tensor's bytes in a format; of the K formats, which the library cannot write, random blocks."""
    if kind == "F32":
        return tensor
    if kind != "Q6_K":
        return quantize(tensor, Kind[kind])
    rows, blocks = len(tensor), tensor.shape[1] // 256
    raw = np.random.default_rng(1).integers(0, 256, (rows, blocks, 210), dtype=np.uint8)
    raw[..., 192:208] = raw[..., 192:208] % 8  # scales
    raw[..., 208:] = np.array([5e-4], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def _bytes() -> tuple[list[str], list[int], None]:
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    tokens = ["<unk>", "<s>", "</s>", *words, "<tool>"]
    return tokens, [3, 3, 3, *[1] * len(words), 4], None


def _pieces() -> tuple[list[str], list[int], list[float]]:
    single = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES, *single]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) + len(single))]
    return tokens, kinds, [0.0] * 259 + [-float(i) for i in range(len(PIECES) + len(single))]

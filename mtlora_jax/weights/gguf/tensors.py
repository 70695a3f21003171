"""The tensors of a GGUF file under the names and in the order that Hugging Face's have."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mtlora_jax.errors import UserError, one_line
from mtlora_jax.weights.lazy import Lazy

READ = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Formats that are read; all but the first three are dequantised to float32."""
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
NAMES = (
    (r"token_embd\.weight", "model.embed_tokens.weight"),
    (r"output_norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (r"blk\.(\d+)\.attn_([qkv])\.(weight|bias)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_output\.(weight|bias)", r"model.layers.\1.self_attn.o_proj.\2"),
    (r"blk\.(\d+)\.ffn_(gate|up|down)\.(weight|bias)", r"model.layers.\1.mlp.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_([qk])_norm\.weight", r"model.layers.\1.self_attn.\2_norm.weight"),
    (r"blk\.(\d+)\.attn_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (r"blk\.(\d+)\.ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
)
"""GGUF's names and the hub's, of decoders of Llama's kind."""
FREQUENCIES = "rope_freqs.weight"
"""What rotary frequencies are divided by: the config says it."""


def opened(path: Path) -> Any:
    """A file's reader; numbers are mapped into memory, not read. Raises UserError for what is not a whole GGUF file."""
    try:
        state = path.stat()
        return _opened(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(one_line(error)) from None
    except Exception as error:  # the library raises whatever its parsing runs into
        raise UserError(
            f"{path} is not read as GGUF, it may be cut short or of a newer kind: {one_line(error)}"
        ) from None


@lru_cache(maxsize=4)
def _opened(path: Path, size: int, changed: int) -> Any:
    """Once for a file that stays as it is: parsing a vocabulary takes seconds."""
    from gguf import GGUFReader

    return GGUFReader(path)


def told(reader: Any, key: str, otherwise: Any = None) -> Any:
    """A value of the metadata."""
    field = reader.get_field(key)
    return otherwise if field is None else field.contents()


class GgufTensors(Lazy):
    """`{name on the hub: array}`; a tensor is dequantised when it is asked for.

    Raises:
      UserError: the file is damaged, or holds a tensor that a decoder of Llama's kind has not.
    """

    def __init__(self, path: Path):
        self.path, reader = path, opened(path)
        self._kind = told(reader, "general.architecture")
        heads = told(reader, f"{self._kind}.attention.head_count")
        self._heads = {"q": heads, "k": told(reader, f"{self._kind}.attention.head_count_kv", heads)}
        self._at = {name_of(tensor.name, path): tensor for tensor in reader.tensors if tensor.name != FREQUENCIES}

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def dtypes(self) -> dict[str, np.dtype]:
        """What every tensor is given as. Raises UserError for a format that is not read."""
        for tensor in self._at.values():
            if tensor.tensor_type.name not in READ:
                raise UserError(
                    f"{self.path}: {tensor.name} is stored as {tensor.tensor_type.name}, which is not read; "
                    f"{', '.join(READ)} are"
                )
        return {name: np.dtype(FLOATS.get(tensor.tensor_type.name, np.float32)) for name, tensor in self._at.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        from gguf.quants import dequantize

        tensor = self._at[name]
        kind, shape = tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape))
        if kind == "BF16":
            values = tensor.data.view(np.uint16).view(ml_dtypes.bfloat16)
        elif kind in FLOATS:
            values = np.asarray(tensor.data)
        else:
            values = dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape(shape)
        projection = re.search(r"\.([qk])_proj\.", name)
        # llama.cpp turns neighbours (2 i, 2 i + 1), the hub's weights halves (i, i + H / 2); of llama alone it
        # reorders rows for that.
        if projection and self._kind == "llama":
            values = halves(values, self._heads[projection[1]])
        return values


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k, or their biases: of every head from pairs of neighbours to halves."""
    return rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def name_of(name: str, path: Path) -> str:
    """What the hub calls a tensor."""
    for pattern, theirs in NAMES:
        if found := re.fullmatch(pattern, name):
            return found.expand(theirs)
    raise UserError(f"{path}: {name} belongs to no model that is read")

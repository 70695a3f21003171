"""A pretrained base whose projections are put into 8 or 4 bits while they are read."""

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.adapters.quantized import BLOCK, Kind, quantize
from mtlora_jax.errors import UserError
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.weights.lazy import Lazy

PROJECTION = re.compile(r"(params/layers/.*/kernel)(?:/(codes|scale))?")
"""What is quantised; embedding and head are not."""


def check_widths(spec: LlamaSpec, kind: Kind) -> None:
    """Raises UserError where a projection's input does not divide into blocks."""
    widths = {
        "hidden": spec.hidden,
        "intermediate": spec.intermediate,
        "heads x head_dim": spec.heads * spec.head_width,
    }
    if kind == "nf4" and (bad := next((name for name, width in widths.items() if width % BLOCK), None)):
        raise UserError(f"quantize: nf4 is of blocks of {BLOCK}, which do not divide {bad} = {widths[bad]}; int8 can")


class Quantized(Lazy):
    """`{path: array}` of a model whose projections are stored so.

    Args:
      leaves: of the model in floats; read when they are asked for, and each projection once where its codes and its
        scales are asked for in turn.
      kind: how they are stored.
    """

    def __init__(self, leaves: Any, kind: Kind):
        self._leaves, self._kind, self.where = leaves, kind, leaves.where
        self._last = lru_cache(maxsize=1)(self._quantized)

    def __iter__(self) -> Iterator[str]:
        for path in self._leaves:
            yield from (f"{path}/codes", f"{path}/scale") if PROJECTION.fullmatch(path) else (path,)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, path: str) -> np.ndarray:
        kernel, part = _parts(path)
        return self._last(kernel)[part] if part else self._leaves[path]

    def shape(self, path: str) -> tuple[int, ...]:
        """A leaf's shape, without reading it."""
        kernel, part = _parts(path)
        if not part:
            return self._leaves.shape(path)
        floats = jax.ShapeDtypeStruct(self._leaves.shape(kernel), jnp.float32)
        return jax.eval_shape(partial(quantize, kind=self._kind), floats)[part].shape

    def has_parts(self, path: str) -> bool:
        """Whether a part of a leaf can be read alone: of projections it cannot, a scale is of a whole column."""
        return not _parts(path)[1] and self._leaves.has_parts(path)

    def part(self, path: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a leaf that `has_parts`."""
        return self._leaves.part(path, index)

    def _quantized(self, path: str) -> dict[str, np.ndarray]:
        """One layer after the other, on the CPU: to the bit the same codes wherever an adapter is used."""
        try:
            cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(f"quantize works on the CPU, which JAX_PLATFORMS leaves out: {error}") from None
        make = jax.jit(partial(quantize, kind=self._kind))
        layers = [jax.device_get(make(jax.device_put(layer, cpu))) for layer in self._leaves[path]]
        return {name: np.stack([layer[name] for layer in layers]) for name in ("codes", "scale")}


def _parts(path: str) -> tuple[str, str | None]:
    """The path of the kernel that a leaf is of, and which part of it; None where it is a leaf of its own."""
    match = PROJECTION.fullmatch(path)
    return (match[1], match[2]) if match else (path, None)

"""MTLoRA and MTL-LoRA in JAX/Flax: one frozen backbone, many tasks, low-rank updates.

Axis vocabulary, used in names inside kernels and in docstrings at borders:
`B` batch, `H W` rows and columns, `C` channels, `N` tokens of a window, `T` tasks, `R` rank, `L` text length,
`D` model width, `K` heads, `E` experts, `U` up-projections, `V` vocabulary.

The library of adapters is public here; training is behind `train.py`, models in `mtlora_jax.vision`.
"""

from importlib import import_module

from mtlora_jax.errors import UserError
from mtlora_jax.version import __version__

ADAPTERS = (
    *("METHODS", "CannotMerge", "Dense", "LoRA", "MTLoRA", "Spec", "Streams"),
    *("lora", "merge", "mtlora", "sites"),
)

__all__ = [*ADAPTERS, "UserError", "__version__"]


def __getattr__(name: str):
    # On first use: processes that only prepare data never pay for jax.
    if name in ADAPTERS:
        return getattr(import_module("mtlora_jax.adapters"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)

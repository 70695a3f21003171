"""Pictures to grids of features by a frozen network: what a text model that reads pictures is given.

`ENCODERS` names them; one of your own is a row, or `module:function` in its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from mtlora_jax.errors import UserError

ENCODERS: Mapping[str, str] = {
    "scenes_nano": "mtlora_jax.encoders.swin:scenes_nano",
    "RN101": "mtlora_jax.encoders.clip:rn101",
}
"""Name -> the function that opens it, `weights -> Encoder`."""


class Forward(Protocol):
    def __call__(self, variables: Any, images: Any) -> Any:
        """`[B, S, S, 3]` uint8 to `[B, N, F]`."""
        ...


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder with its weights.

    Attributes:
      name: what it is called.
      size: S, rows and columns of the pictures that it reads.
      forward: `(variables, images) -> features`, jitted.
      variables: its weights.
      features: F.
    """

    name: str
    size: int
    forward: Forward
    variables: Any
    features: int

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float16 `[B, N, F]` of uint8 `[B, S, S, 3]`, a square grid row by row."""
        return np.asarray(self.forward(self.variables, images)).astype(np.float16)

    def fitted(self, picture: np.ndarray) -> np.ndarray:
        """A picture of any size as the encoder reads it: squeezed to S by S without keeping its ratio, as published."""
        from PIL import Image

        return np.asarray(Image.fromarray(picture).resize((self.size, self.size), Image.Resampling.BICUBIC))


def open_encoder(name: str, weights: str = "") -> Encoder:
    """An encoder by name.

    Args:
      weights: its file, for encoders that are not shipped.

    Raises:
      UserError: there is no such encoder, or its weights cannot be read.
    """
    where = ENCODERS.get(name, name if ":" in name else None)
    if where is None:
        raise UserError(f"there is no image encoder {name}: there are {', '.join(ENCODERS)}, or module:function")
    module, _, function = where.partition(":")
    try:
        opened = getattr(import_module(module), function)
    except (ImportError, AttributeError):
        raise UserError(f"there is no image encoder {where} to import") from None
    return opened(weights)

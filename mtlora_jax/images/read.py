"""One file to one array, by the library that knows its format; whatever is wrong with it is told in one line."""

from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from mtlora_jax.errors import UserError

INDEXED = ("P", "L", "1", "I", "I;16", "I;16B")
"""Pillow's modes of one number per pixel; palettes are not looked up."""


def image(path: Path | IO[bytes]) -> np.ndarray:
    """A picture in any format, a path or an open file, as uint8 `[H, W, 3]` red, green and blue.

    Raises:
      UserError: it is not a picture, or truncated; the same of every reader below.
    """
    return np.asarray(_decoded(path, "RGB"))


def shape(path: Path | IO[bytes]) -> tuple[int, int]:
    """`(H, W)` of a picture, without decoding it."""
    try:
        with Image.open(path) as picture:
            return picture.size[::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: is not a picture ({_first_line(error)}); fetch it again") from None


def indices(path: Path) -> np.ndarray:
    """A picture of one number per pixel, palette or grey: `[H, W]` of those numbers, not of its colours."""
    picture = _decoded(path)
    if picture.mode not in INDEXED:
        raise UserError(f"{path}: its pixels are {picture.mode} colours; a label holds one number per pixel")
    return np.asarray(picture.convert("L") if picture.mode == "1" else picture)


def plane(path: Path) -> np.ndarray:
    """One number per pixel `[H, W]`, of a picture (see `indices`) or of a `.npy` file."""
    return array(path, "H", "W") if path.suffix == ".npy" else indices(path)


def colours(path: Path) -> np.ndarray:
    """A picture whose three channels are numbers of their own: uint8 `[H, W, 3]`."""
    picture = _decoded(path)
    if picture.mode != "RGB":
        raise UserError(f"{path}: its pixels are {picture.mode}; three channels (RGB) are needed")
    return np.asarray(picture)


def _decoded(path: Path | IO[bytes], mode: str | None = None) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.convert(mode) if mode else picture.copy()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({_first_line(error)}); fetch it again") from None


def array(path: Path, *axes: str) -> np.ndarray:
    """A `.npy` file of numbers.

    Args:
      axes: their names; the array has to have as many, but for trailing ones of length 1.
    """
    try:
        # Pickled objects could run code of their author's.
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as .npy ({_first_line(error)}); fetch it again") from None
    while found.ndim > len(axes) and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim != len(axes) or found.dtype.kind not in "biuf":
        raise UserError(f"{path}: holds {found.dtype} {list(found.shape)}; numbers [{', '.join(axes)}] are needed")
    return found


def mat(path: Path, name: str) -> Any:
    """One variable of a MATLAB file (up to version 7.2); structs have attributes, arrays no axes of length 1."""
    import scipy.io

    try:
        found = scipy.io.loadmat(path, variable_names=[name], struct_as_record=False, squeeze_me=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path}: cannot be read as .mat ({_first_line(error)}); fetch it again") from None
    if name not in found:
        raise UserError(f"{path}: has no variable {name}")
    return found[name]


def write_png(stem: Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> Path:
    """Writes `<stem>.png`: greys of 8 or 16 bits `[H, W]`, colours `[H, W, 3]`, or numbers with their palette."""
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    path = stem.with_name(f"{stem.name}.png")
    picture.save(path)
    return path


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

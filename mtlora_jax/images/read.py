"""One file to one array, by the library that knows its format; whatever is wrong with it is told in one line.

Pictures and labels are read upright: the orientation that a camera noted (EXIF) is applied. Numbers are those that the
file holds: Pillow stretches greys of 1, 2 and 4 bits to 0..255, which is undone for labels.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from mtlora_jax.errors import UserError

LIMIT = "MTLORA_JAX_MAX_PIXELS"
"""An environment variable: pixels that a picture may have. A small file can claim to be larger than any memory."""
MAX_PIXELS = 1 << 28
"""The limit where the variable says nothing."""
# Ours is kept to instead, by every picture alike; Pillow's own warns from one size on and fails from another.
Image.MAX_IMAGE_PIXELS = None
# Notes of a camera that are damaged, and the like: the picture is read all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")

INDEXED = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of one number per pixel; palettes are not looked up."""
WIDE = ("I;16", "I;16B", "I;16L", "I;16N")
"""Those of 16 bits."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation; 5 to 8 exchange rows and columns."""

File = Path | IO[bytes]


def image(path: File) -> np.ndarray:
    """A picture in any format, a path or an open file, as uint8 `[H, W, 3]` red, green and blue.

    Of 16 bits the higher 8 are taken.

    Raises:
      UserError: it is not a picture, or truncated, or has more pixels than `LIMIT` allows; the same of every reader
        below. Numbers of more than 16 bits are no colours.
    """
    with _opened(path) as picture:
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
            raise UserError(f"{_name(path)}: its pixels are numbers of 32 bits; save it with 8 or 16 bits a channel")
        upright = _upright(picture)
        if upright.mode in ("I", *WIDE):
            high = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(high[..., None], 3, -1)
        # Straight to RGB a palette with transparency makes Pillow warn.
        return np.asarray((upright.convert("RGBA") if "transparency" in upright.info else upright).convert("RGB"))


def shape(path: File) -> tuple[int, int]:
    """`(H, W)` of a picture as `image` gives it, without decoding it."""
    with _opened(path) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) > 4 else (height, width)


def indices(path: Path) -> np.ndarray:
    """A picture of one number per pixel, palette or grey: `[H, W]` of the numbers in the file, not of its colours."""
    with _opened(path) as picture:
        if picture.mode not in INDEXED:
            raise UserError(f"{path}: its pixels are {picture.mode} colours; a label holds one number per pixel")
        bits = 8 if picture.mode == "P" else _bits(path)
        numbers = np.asarray(_upright(picture))
        if picture.mode == "1":
            return numbers.astype(np.uint8)
        return numbers // (255 // (2**bits - 1)) if bits < 8 else numbers


def shares(path: Path) -> np.ndarray:
    """A picture in greys, `[H, W]` float32 from black, 0, to white, 1, whatever its bits; colours by lightness."""
    with _opened(path) as picture:
        if picture.mode in ("I", *WIDE):
            return np.asarray(_upright(picture)).astype(np.float32) / np.float32(65535)
        return np.asarray(_upright(picture).convert("L")).astype(np.float32) / np.float32(255)


def plane(path: Path) -> np.ndarray:
    """One number per pixel `[H, W]`, of a picture (see `indices`) or of a `.npy` file."""
    return array(path, "H", "W") if path.suffix == ".npy" else indices(path)


def colours(path: Path) -> np.ndarray:
    """A picture whose three channels are numbers of their own: uint8 `[H, W, 3]`."""
    with _opened(path) as picture:
        if picture.mode != "RGB":
            raise UserError(f"{path}: its pixels are {picture.mode}; three channels (RGB) are needed")
        return np.asarray(_upright(picture))


@contextmanager
def _opened(path: File) -> Iterator[Image.Image]:
    """A picture whose head is read and whose size is allowed."""
    limit = max_pixels()
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > limit:
                size = f"{picture.height} x {picture.width} pixels, more than {limit:,}"
                raise UserError(f"{_name(path)}: claims {size}; if it is right, allow more with {LIMIT}=N")
            yield picture
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{_name(path)}: cannot be decoded ({_first_line(error)}); fetch it again") from None


def max_pixels() -> int:
    """The largest picture that is read. Raises UserError where `LIMIT` is not a count."""
    said = os.environ.get(LIMIT, str(MAX_PIXELS))
    if not said.isdigit():
        raise UserError(f"{LIMIT} must be a count of pixels, not {said!r}")
    return int(said)


def _name(path: File) -> str:
    return str(path) if isinstance(path, str | Path) else str(getattr(path, "name", "a picture"))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # what a camera noted is damaged; its pixels may not be
        return 1


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _bits(path: Path) -> int:
    """Bits of a grey png's pixel, which Pillow does not tell; 8 of other formats."""
    with open(path, "rb") as file:
        head = file.read(26)
    is_grey_png = head.startswith(b"\x89PNG") and head[25] == 0
    return head[24] if is_grey_png else 8


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
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path}: cannot be read as .npy ({_first_line(error)}); fetch it again") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: holds several arrays; a .npy of one is needed")
    while found.ndim > len(axes) and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim != len(axes) or found.dtype.kind not in "biuf":
        raise UserError(f"{path}: holds {found.dtype} {list(found.shape)}; numbers [{', '.join(axes)}] are needed")
    return found


def floats(numbers: np.ndarray) -> np.ndarray:
    """Numbers as float32; those beyond its range are infinite, which every reader takes for unknown."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


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

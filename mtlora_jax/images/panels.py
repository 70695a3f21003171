"""One picture out of many: rows and columns with names, for image | truth | prediction of each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (60, 60, 66)
GAP = 8
"""Pixels between cells, around the panel, and between a name and its cell."""
TEXT = 14
"""Pixels, the size of names, at least."""
SMALLEST = 128
"""Pixels; smaller pictures are magnified at least to this, unless a size is asked for."""


def panel(
    rows: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    size: int | None = None,
) -> np.ndarray:
    """The pictures on a grid of equal cells.

    Args:
      rows: pictures, uint8 `[H, W, 3]`, of any sizes; None leaves a cell empty. Rows may differ in length.
      columns: a title above each column, from the left; may be fewer than the columns.
      names: a name on the left of each row, from the top; may be fewer than the rows.
      size: pixels, the side of a cell; by default the longest side of all pictures, a multiple if tiny.
        Pictures are scaled to fit: by an average when they shrink, by repeating pixels when they grow, which
        keeps the colours and edges of labels.

    Returns:
      uint8 `[height, width, 3]`.

    Raises:
      ValueError: a picture that is not uint8 `[H, W, 3]`, more titles than columns, more names than rows.
    """
    count = max((len(row) for row in rows), default=0)
    if len(columns) > count or len(names) > len(rows):
        asked = f"{len(columns)} titles and {len(names)} names"
        raise ValueError(f"{asked} for {count} columns and {len(rows)} rows")
    size = size or _natural_size(rows)
    text = text_size(size)
    font = ImageFont.load_default(text)
    left = GAP + (round(max(font.getlength(name) for name in names)) + GAP if any(names) else 0)
    top = GAP + (text + GAP if any(columns) else 0)
    sheet = Image.new("RGB", (left + count * (size + GAP), top + len(rows) * (size + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(columns):
        draw.text((left + c * (size + GAP) + size // 2, top - GAP), title, INK, font, anchor="ms")
    for r, name in enumerate(names):
        draw.text((left - GAP, top + r * (size + GAP) + size // 2), name, INK, font, anchor="rm")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            if picture is not None:
                cell = _fit(picture, size)
                x, y = (size - cell.width) // 2, (size - cell.height) // 2
                sheet.paste(cell, (left + c * (size + GAP) + x, top + r * (size + GAP) + y))
    return np.array(sheet)


def with_legend(picture: np.ndarray, legends: Mapping[str, Sequence[tuple[str, Sequence[int]]]]) -> np.ndarray:
    """A panel with what its colours mean below it: a line, or more, for each name of words and colours.

    Args:
      picture: uint8 `[H, W, 3]`.
      legends: `{name: ((words, (red, green, blue)), ...)}`; names without any are left out.

    Returns:
      uint8 `[H + lines, W, 3]`; wider than the panel only where one entry alone would not fit.
    """
    size = text_size(picture.shape[1] // max(len(legends), 1))
    font = ImageFont.load_default(size)
    left = GAP + max((round(font.getlength(name)) for name in legends), default=0) + 2 * GAP

    def width_of(words: str) -> float:
        return size + GAP / 2 + font.getlength(words) + 2 * GAP

    widest = max((width_of(words) for entries in legends.values() for words, _ in entries), default=0)
    width = max(picture.shape[1], round(left + widest))
    # Where everything goes: column, line, words, and the colour of the square before them.
    places: list[tuple[float, int, str, Sequence[int] | None]] = []
    line = 0
    for name, entries in legends.items():
        if not entries:
            continue
        places.append((GAP, line, name, None))
        x: float = left
        for words, colour in entries:
            if x > left and x + width_of(words) > width:
                x, line = left, line + 1
            places.append((x, line, words, colour))
            x += width_of(words)
        line += 1
    sheet = Image.new("RGB", (width, picture.shape[0] + line * (size + GAP) + GAP), PAPER)
    sheet.paste(_image(picture))
    draw = ImageDraw.Draw(sheet)
    for x, row, words, colour in places:
        y = picture.shape[0] + row * (size + GAP)
        if colour is not None:
            draw.rectangle((x, y, x + size, y + size), tuple(colour), INK)
            x += size + GAP / 2
        draw.text((x, y + size // 2), words, INK, font, anchor="lm")
    return np.array(sheet)


def text_size(cell: int) -> int:
    """Pixels, the size of names that are read beside cells of a size."""
    return max(TEXT, cell // 24)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes a uint8 `[H, W, 3]` picture; makes the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _image(picture).save(path, format="PNG")


def _natural_size(rows):
    sides = [side for row in rows for picture in row if picture is not None for side in picture.shape[:2]]
    longest = max(sides, default=SMALLEST)
    return longest * -(-SMALLEST // longest)


def _image(picture):
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"a picture must be uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}")
    return Image.fromarray(picture)


def _fit(picture, size):
    image = _image(picture)
    scale = size / max(image.size)
    shape = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(shape, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)

"""Tables and lists as plain text, for messages and reports."""

from collections.abc import Iterable, Sequence
from typing import Any

MAX_LISTED = 5
"""Names that a message spells out; the rest it counts."""

GIB = 2**30
"""Bytes of a GiB, in which memory is listed."""


def listed(names: Iterable[str], most: int = MAX_LISTED) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Plain text with aligned columns: words to the left, numbers to the right. None is a dash."""
    rows = [list(row) for row in rows]
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [bool(rows) and all(not isinstance(v, str) for v in column) for column in zip(*rows, strict=True)]
    right = right or [False] * len(widths)
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

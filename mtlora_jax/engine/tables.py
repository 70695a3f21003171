"""Ordered tables of (path regex, value): the first row that matches a leaf's path gives its value."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from mtlora_jax.errors import UserError

V = TypeVar("V")
Table = Sequence[tuple[str, V]]

MAX_LISTED = 5
"""Paths that a message spells out; the rest it counts."""


def paths(tree: Any) -> list[str]:
    """The path `a/b/c` of every leaf, in the order of `jax.tree.leaves`."""
    return list(flatten(tree))


def flatten(tree: Any) -> dict[str, Any]:
    """`{path: leaf}` of any pytree, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match(table: Table[V], path: str, default: V | None = None) -> V | None:
    """The value of the first row whose regex is found in the path (anchors: `^`, `$`), else `default`."""
    return next((value for regex, value in table if re.search(regex, path)), default)


def label_paths(table: Table[V], names: Iterable[str]) -> tuple[dict[str, V], list[str]]:
    """Labels every path.

    Returns:
      `{path: value}`, and the regexes of rows that were the first match of no path.

    Raises:
      UserError: paths that no row matches; the message names them.
    """
    labels, unmatched, used = {}, [], set()
    for path in names:
        row = next((i for i, (regex, _) in enumerate(table) if re.search(regex, path)), None)
        if row is None:
            unmatched.append(path)
        else:
            labels[path] = table[row][1]
            used.add(row)
    if unmatched:
        more = f" and {len(unmatched) - MAX_LISTED} more" if len(unmatched) > MAX_LISTED else ""
        raise UserError(f"no row of the table matches {', '.join(unmatched[:MAX_LISTED])}{more}")
    return labels, [regex for i, (regex, _) in enumerate(table) if i not in used]


def label_tree(table: Table[V], tree: Any) -> tuple[Any, list[str]]:
    """`label_paths` of a tree's leaves, with the labels in the tree's own structure."""
    labels, unused = label_paths(table, paths(tree))
    return jax.tree.unflatten(jax.tree.structure(tree), list(labels.values())), unused


def count(tree: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def parameter_table(tree: Any, labels: Mapping[str, str], frozen: Collection[str] = ("frozen",)) -> str:
    """What trains and what does not, as plain text: one line per label and top-level module, then the sums.

    Args:
      tree: weights, or their shapes, with leaves at `collection/module/...`.
      labels: path to label, for every leaf.
      frozen: labels that do not train.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for path, leaf in flatten(tree).items():
        key = labels[path], "/".join(path.split("/")[:2])
        groups.setdefault(key, []).append(math.prod(leaf.shape))
    total = sum(map(sum, groups.values()))
    trainable = sum(sum(sizes) for (label, _), sizes in groups.items() if label not in frozen)
    rows = [(label, module, len(sizes), sum(sizes)) for (label, module), sizes in sorted(groups.items())]
    share = f" ({100 * trainable / total:.2f}%)" if total else ""
    return "\n".join(
        [
            text_table(("label", "module", "arrays", "parameters"), rows),
            f"parameters: {total:,} total, {trainable:,} trainable{share}",
        ]
    )


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

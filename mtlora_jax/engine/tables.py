"""Ordered tables of (path regex, value): the first row that matches a leaf's path gives its value."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from mtlora_jax.errors import UserError
from mtlora_jax.listing import listed, text_table

V = TypeVar("V")
Table = Sequence[tuple[str, V]]

OWNED = re.compile(r"(?:^|/)tasks/([^/]+)/")
"""Where a path says that one task alone owns a leaf."""


def paths(tree: Any) -> list[str]:
    """The path `a/b/c` of every leaf, in the order of `jax.tree.leaves`."""
    return list(flatten(tree))


def flatten(tree: Any) -> dict[str, Any]:
    """`{path: leaf}` of any pytree, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match(table: Table[V], path: str, default: V | None = None) -> V | None:
    """The value of the first row whose regex is found in the path (anchors: `^`, `$`), else `default`."""
    row = _first_row(table, path)
    return default if row is None else table[row][1]


def label_paths(table: Table[V], names: Iterable[str]) -> dict[str, V]:
    """`{path: value}` of every path.

    Raises:
      UserError: paths that no row matches; the message names them.
    """
    rows = {path: _first_row(table, path) for path in names}
    if unmatched := [path for path, row in rows.items() if row is None]:
        raise UserError(f"no row of the table matches {listed(unmatched)}")
    return {path: table[row][1] for path, row in rows.items()}


def owner(table: Table[str], path: str) -> str | None:
    """The task that alone owns a leaf: the path says it (`tasks/<task>/`), or a row of the table; else None."""
    found = OWNED.search(path)
    return found[1] if found else match(table, path)


def unmatched_rows(table: Table, names: Iterable[str]) -> list[str]:
    """The regexes of rows that are the first match of no path."""
    used = {_first_row(table, path) for path in names}
    return [regex for i, (regex, _) in enumerate(table) if i not in used]


def _first_row(table: Table, path: str) -> int | None:
    return next((i for i, (regex, _) in enumerate(table) if re.search(regex, path)), None)


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

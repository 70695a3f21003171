"""Weights under other libraries' names: one table of (our path, their names, layout) per family, read both ways.

A row's regex matches one of OUR leaf paths, its templates give the tensor, or tensors, that another library keeps the
leaf in. So the model says what has to be there, every leaf is filled or reported, and whatever the other side holds
beyond that is either listed as droppable or an error.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mtlora_jax.errors import UserError

MAX_LISTED = 5
"""Keys an error message spells out; the rest it counts."""


class Layout(NamedTuple):
    """How one of our leaves is stored elsewhere.

    Attributes:
      load: their tensors to our leaf.
      save: our leaf to their tensors, the exact inverse.
      fit: changes one of their tensors to a wanted shape where that keeps its meaning (bias tables of another window).
    """

    load: Callable[..., np.ndarray]
    save: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    fit: Callable[[np.ndarray, tuple[int, ...]], np.ndarray] | None = None


def single(load: Callable[[np.ndarray], np.ndarray], save: Callable[[np.ndarray], np.ndarray], **more) -> Layout:
    """A layout of one tensor."""
    return Layout(load, lambda leaf: (save(leaf),), **more)


AS_IS = single(lambda x: x, lambda x: x)
TRANSPOSED = single(np.transpose, np.transpose)
"""Linear layers: `(out, in)` to `[in, out]`."""
CONV = single(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""Convolutions: `(out, in, H, W)` to `[H, W, in, out]`."""
POINTWISE = single(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
"""1 x 1 convolutions, which are products here: `(out, in, 1, 1)` to `[in, out]`."""
CONV_TRANSPOSED = single(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Transposed convolutions: `(in, out, H, W)` to `[H, W, in, out]`."""
COUNTER = single(lambda x: x.astype(np.int32), lambda x: x.astype(np.int64))


def joined(layout: Layout, parts: int) -> Layout:
    """Equal output blocks of one leaf that the other side keeps apart, such as q, k and v."""
    return Layout(
        lambda *tensors: np.concatenate([layout.load(x) for x in tensors], axis=-1),
        lambda leaf: tuple(layout.save(x)[0] for x in np.split(leaf, parts, axis=-1)),
    )


class Row(NamedTuple):
    """One line of a table; the first whose `path` matches the whole of a leaf's path counts.

    Attributes:
      path: regex over our path `module/.../leaf`.
      names: their names, with the regex's groups as `\\1`.
    """

    path: str
    names: tuple[str, ...]
    layout: Layout = AS_IS


LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "steps": "num_batches_tracked",
}
"""What torch calls a layer's tensors."""


def layer(path: str, name: str, kernel: Layout = AS_IS) -> tuple[Row, ...]:
    """The rows of one layer, whichever of `LEAVES` it has.

    Args:
      path: regex of the layer's path.
      name: the layer's name there.
      kernel: the layout of its kernel.
    """
    layouts = {"kernel": kernel, "steps": COUNTER}
    return tuple(
        Row(f"{path}/{ours}", (f"{name}.{theirs}",), layouts.get(ours, AS_IS)) for ours, theirs in LEAVES.items()
    )


def under(rows: Iterable[Row], path: str, name: str) -> tuple[Row, ...]:
    """A table moved below a path of ours and a name of theirs. Where that path has groups, rows may only have named
    ones, so that numbers stay right."""
    return tuple(Row(path + row.path, tuple(name + n for n in row.names), row.layout) for row in rows)


def lookup(path: str, rows: Iterable[Row]) -> tuple[tuple[str, ...], Layout]:
    """The names and the layout of one leaf.

    Raises:
      KeyError: no row matches; the table is incomplete.
    """
    for row in rows:
        if match := re.fullmatch(row.path, path):
            return tuple(match.expand(name) for name in row.names), row.layout
    raise KeyError(f"no row of the key table matches {path}")


def load(
    source: Mapping[str, np.ndarray],
    targets: Mapping[str, object],
    rows: Iterable[Row],
    droppable: Iterable[str] = (),
    where: str = "the checkpoint",
) -> dict[str, np.ndarray]:
    """Fills every target from a source and accounts for every key of it.

    Args:
      source: their names to arrays.
      targets: our paths to anything with `shape` and `dtype`.
      rows: the family's table.
      droppable: regexes of keys that nothing here needs.
      where: what to call the source in messages.

    Returns:
      Our paths to arrays of the targets' shapes and dtypes.

    Raises:
      UserError: a shape differs (the first in the source's order is named), a target has no source, or keys are left
        over.
    """
    rows, wanted, missing, filled = tuple(rows), set(), [], {}
    misfits: dict[str, str] = {}
    for path, target in targets.items():
        names, layout = lookup(path, rows)
        wanted.update(names)
        if absent := [name for name in names if name not in source]:
            missing += absent
            continue
        # A broadcast scalar has the shape and no memory: it tells what their tensors have to look like.
        shapes = [x.shape for x in layout.save(np.broadcast_to(np.zeros((), np.float32), target.shape))]
        tensors = [_fitted(source[n], shape, layout) for n, shape in zip(names, shapes, strict=True)]
        for name, tensor, shape in zip(names, tensors, shapes, strict=True):
            if tensor.shape != shape:
                misfits[name] = f"{name} has shape {tensor.shape}, the model needs {shape}"
        if misfits.keys().isdisjoint(names):
            filled[path] = np.ascontiguousarray(layout.load(*tensors).astype(target.dtype)).reshape(target.shape)
    if misfits:
        raise UserError(f"{where} is of another size: {next(misfits[key] for key in source if key in misfits)}")
    left = [key for key in source if key not in wanted and not any(re.fullmatch(d, key) for d in droppable)]
    problems = []
    if missing:
        problems.append(f"lacks {listed(missing)}")
    if left:
        problems.append(f"has keys that the model does not: {listed(left)}")
    if problems:
        raise UserError(f"{where} {' and '.join(problems)}")
    return filled


def _fitted(value, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    tensor = np.asarray(value)
    return tensor if tensor.shape == shape or layout.fit is None else layout.fit(tensor, shape)


def save(leaves: Mapping[str, np.ndarray], rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """The inverse of `load`: our paths to their names."""
    rows, result = tuple(rows), {}
    for path, leaf in leaves.items():
        names, layout = lookup(path, rows)
        tensors = layout.save(np.asarray(leaf))
        result |= {n: np.ascontiguousarray(x).reshape(x.shape) for n, x in zip(names, tensors, strict=True)}
    return result


def listed(keys: Iterable[str]) -> str:
    """The first keys and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(keys[:MAX_LISTED]) + more

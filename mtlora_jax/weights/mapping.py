"""Weights under other libraries' names: one table of (our path, their names, layout) per family, read both ways.

A row's regex matches one of OUR leaf paths, its templates give the tensor, or tensors, that another library keeps the
leaf in. So the model says what has to be there, every leaf is filled or reported, and whatever the other side holds
beyond that is either listed as droppable or an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.listing import listed
from mtlora_jax.weights.lazy import Lazy


class Layout(NamedTuple):
    """How one of our leaves is stored elsewhere.

    Attributes:
      load: their tensors to our leaf.
      save: our leaf to their tensors, the exact inverse.
      fit: changes one of their tensors to a wanted shape where that keeps its meaning (bias tables of another window).
      layers: length of our leaf's leading axis, if they keep its entries apart; `load` and `save` are of one entry.
      cut: a part of our leaf, a slice for each axis, as one of their tensor; None where axes are not all that changes.
    """

    load: Callable[..., np.ndarray]
    save: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    fit: Callable[[np.ndarray, tuple[int, ...]], np.ndarray] | None = None
    layers: int = 0
    cut: Callable[[tuple[slice, ...]], tuple[slice, ...]] | None = None


def single(load: Callable[[np.ndarray], np.ndarray], save: Callable[[np.ndarray], np.ndarray], **more) -> Layout:
    """A layout of one tensor."""
    return Layout(load, lambda leaf: (save(leaf),), **more)


AS_IS = single(lambda x: x, lambda x: x, cut=lambda index: index)
TRANSPOSED = single(np.transpose, np.transpose, cut=lambda index: index[::-1])
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


def stacked(layout: Layout, layers: int) -> Layout:
    """A leaf `[layers, ...]` of which they keep every layer in tensors of its own."""
    return layout._replace(layers=layers)


def stack_of(layout: Layout) -> Layout:
    """One tensor for each entry of a leaf's leading axis, all of them read at once."""
    return Layout(
        lambda *tensors: np.stack([layout.load(x) for x in tensors]),
        lambda leaf: tuple(layout.save(x)[0] for x in leaf),
    )


def twice(layout: Layout) -> Layout:
    """Tensors that they store a second time under further names."""
    return Layout(lambda *tensors: layout.load(*tensors[: len(tensors) // 2]), lambda leaf: layout.save(leaf) * 2)


class Row(NamedTuple):
    """One line of a table; the first whose `path` matches the whole of a leaf's path counts.

    Attributes:
      path: regex over our path `module/.../leaf`.
      names: their names, with the regex's groups as `\\1`. A name that ends in `[3]` is entry 3 of a tensor's leading
        axis, whose other entries are other leaves of ours; such a name has no groups.
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
    source = apart(source, rows := tuple(rows))
    wanted, missing, filled = set(), [], {}
    misfits: dict[str, str] = {}
    for path, target in targets.items():
        names, layout = lookup(path, rows)
        wanted.update(names)
        if absent := [name for name in names if name not in source]:
            missing += absent
            continue
        shapes = dict(zip(names, their_shapes(target.shape, layout), strict=True))
        tensors = {name: _fitted(source[name], shape, layout) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                misfits[name] = f"{name} has shape {tensors[name].shape}, the model needs {shape}"
        if misfits.keys().isdisjoint(names):
            leaf = our_leaf(tensors.__getitem__, names, layout)
            filled[path] = np.ascontiguousarray(leaf.astype(target.dtype)).reshape(target.shape)
    if misfits:
        raise UserError(f"{where} is of another size: {next(misfits[key] for key in source if key in misfits)}")
    check_accounted(source, wanted, missing, droppable, where)
    return filled


def check_accounted(
    source: Iterable[str], wanted: set[str], missing: Iterable[str], droppable: Iterable[str], where: str
) -> None:
    """Raises UserError where a target has no source, or keys are left over that are not droppable."""
    left = [key for key in source if key not in wanted and not any(re.fullmatch(d, key) for d in droppable)]
    problems = []
    if missing := list(missing):
        problems.append(f"lacks {listed(missing)}")
    if left:
        problems.append(f"has keys that the model does not: {listed(left)}")
    if problems:
        raise UserError(f"{where} {' and '.join(problems)}")


def their_shapes(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, ...]]:
    """The shapes that a leaf's tensors have on the other side, in the order of their names."""
    # A broadcast scalar has the shape and no memory.
    one = np.broadcast_to(np.zeros((), np.float32), shape[1:] if layout.layers else shape)
    return [x.shape for x in layout.save(one)] * max(layout.layers, 1)


def our_leaf(get: Callable[[str], np.ndarray], names: tuple[str, ...], layout: Layout) -> np.ndarray:
    """One of our leaves; of stacked layers, a layer's tensors are held at a time.

    Args:
      get: their tensor of a name.
    """
    if not layout.layers:
        return layout.load(*map(get, names))
    count, leaf = len(names) // layout.layers, None
    for i in range(layout.layers):
        layer = layout.load(*map(get, names[i * count : (i + 1) * count]))
        if leaf is None:
            leaf = np.empty((layout.layers, *layer.shape), layer.dtype)
        elif leaf.dtype != layer.dtype:
            # Layers of two dtypes: what holds both, float32 or wider, so that nothing is rounded.
            wide = (np.promote_types(of.dtype, np.float32) for of in (leaf, layer))
            leaf = leaf.astype(np.promote_types(*wide))
        leaf[i] = layer
    return leaf


class MappedLeaves(Lazy):
    """`{our path: array}` of a source that is read leaf by leaf, in the dtype it is stored in.

    Args:
      source: their names to arrays, read when they are asked for.
      targets: our paths to anything with a `shape`.
      rows, droppable, where: as in `load`.

    Raises:
      UserError: a target has no source, or keys are left over; on access, a shape differs.
    """

    def __init__(
        self,
        source: Mapping[str, np.ndarray],
        targets: Mapping[str, Any],
        rows: Iterable[Row],
        droppable: Iterable[str] = (),
        where: str = "the checkpoint",
    ):
        rows = tuple(rows)
        self._source, self._targets, self.where = source, dict(targets), where
        self._rows = {path: lookup(path, rows) for path in targets}
        wanted = [name for names, _ in self._rows.values() for name in names]
        check_accounted(source, set(wanted), [name for name in wanted if name not in source], droppable, where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def shape(self, path: str) -> tuple[int, ...]:
        """A leaf's shape, without reading it."""
        return self._targets[path].shape

    def __getitem__(self, path: str) -> np.ndarray:
        names, layout = self._rows[path]
        shapes = dict(zip(names, their_shapes(self.shape(path), layout), strict=True))

        def get(name: str) -> np.ndarray:
            tensor = self._source[name]
            self._check(name, tensor.shape, shapes[name])
            return tensor

        return our_leaf(get, names, layout)

    def has_parts(self, path: str) -> bool:
        """Whether a part of a leaf can be read alone: the source reads parts of tensors, and the layout only turns
        them."""
        names, layout = self._rows[path]
        return hasattr(self._source, "part") and layout.cut is not None and len({self._dtypes[n] for n in names}) == 1

    def part(self, path: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a leaf that `has_parts`, a slice for each axis; nothing else is read."""
        names, layout = self._rows[path]
        shapes = dict(zip(names, their_shapes(self.shape(path), layout), strict=True))

        def get(name: str, index: tuple[slice, ...]) -> np.ndarray:
            self._check(name, self._source.shape(name), shapes[name])
            return layout.load(self._source.part(name, layout.cut(index)))

        if not layout.layers:
            return get(names[0], index)
        first, *rest = index
        return np.stack([get(name, tuple(rest)) for name in names[first]])

    @cached_property
    def _dtypes(self) -> dict[str, np.dtype]:
        return self._source.dtypes()

    def _check(self, name: str, shape: tuple[int, ...], needed: tuple[int, ...]) -> None:
        if shape != needed:
            raise UserError(f"{self.where} is of another size: {name} has shape {shape}, the model needs {needed}")


class MappedTensors(Lazy):
    """`{their name: array}` of our leaves, made when it is asked for: the inverse of `MappedLeaves`.

    Args:
      dtypes: by their name, where it is not the leaf's; values are rounded to it once.
    """

    def __init__(
        self, leaves: Mapping[str, np.ndarray], rows: Iterable[Row], dtypes: Mapping[str, np.dtype] | None = None
    ):
        rows = tuple(rows)
        self._leaves, self._dtypes = leaves, dtypes or {}
        self._at = {}
        for path in leaves:
            names, layout = lookup(path, rows)
            self._at |= {name: (path, i, len(names), layout) for i, name in enumerate(names)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, name: str) -> np.ndarray:
        path, i, count, layout = self._at[name]
        leaf = self._leaves[path]
        if layout.layers:
            layer, i = divmod(i, count // layout.layers)
            leaf = leaf[layer]
        tensor = layout.save(np.asarray(leaf))[i]
        return tensor.astype(self._dtypes.get(name, tensor.dtype))

    def sizes(self) -> dict[str, int]:
        """Bytes of every tensor; those of one leaf have equally many numbers."""
        found = {}
        for name, (path, _, count, _) in self._at.items():
            leaf = self._leaves[path]
            found[name] = leaf.size // count * np.dtype(self._dtypes.get(name, leaf.dtype)).itemsize
        return found


ENTRY = re.compile(r"(.*)\[(\d+)\]")
"""A name that stands for one entry of a tensor."""


def apart(source: Mapping[str, np.ndarray], rows: Iterable[Row]) -> Mapping[str, np.ndarray]:
    """The source with the entries of its tensors under names of their own, where rows name entries."""
    cut = {match[1] for row in rows for name in row.names if (match := ENTRY.fullmatch(name))}
    if not cut:
        return source
    found: dict[str, np.ndarray] = {}
    for name, tensor in source.items():
        if name in cut:
            found |= {f"{name}[{i}]": entry for i, entry in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


def together(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `apart`: entries of one tensor stacked in their order."""
    entries: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = ENTRY.fullmatch(name)
        entries.setdefault(match[1] if match else name, {})[int(match[2]) if match else -1] = tensor
    return {name: of[-1] if -1 in of else np.stack([of[i] for i in range(len(of))]) for name, of in entries.items()}


def _fitted(value, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    tensor = np.asarray(value)
    return tensor if tensor.shape == shape or layout.fit is None else layout.fit(tensor, shape)


def save(leaves: Mapping[str, np.ndarray], rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """The inverse of `load`: our paths to their names."""
    tensors = together(dict(MappedTensors(leaves, rows)))
    return {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}

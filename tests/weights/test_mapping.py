"""Key tables: layouts invert, every key is accounted for, and messages name mapping."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.weights import mapping, safetensors
from mtlora_jax.weights.mapping import (
    AS_IS,
    TRANSPOSED,
    MappedLeaves,
    MappedTensors,
    Row,
    joined,
    layer,
    stacked,
    under,
)

LAYOUTS = {
    "as_is": (mapping.AS_IS, 2),
    "transposed": (mapping.TRANSPOSED, 2),
    "conv": (mapping.CONV, 4),
    "conv_transposed": (mapping.CONV_TRANSPOSED, 4),
    "pointwise": (mapping.POINTWISE, 2),
    "joined": (joined(mapping.TRANSPOSED, 3), 2),
    "stack_of": (mapping.stack_of(mapping.TRANSPOSED), 3),
    "twice": (mapping.twice(mapping.TRANSPOSED), 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_layouts_invert_exactly(name, data):
    layout, rank = LAYOUTS[name]
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    if name == "joined":
        shape = (shape[0], 3 * shape[1])
    leaf = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(layout.load(*layout.save(leaf)), leaf, strict=True)


ROWS = (
    *under(
        layer(r"(?P<part>\w+)/(?P<of>\w+)", r"\g<part>.\g<of>", mapping.TRANSPOSED), r"params/b_(\d)/", r"blocks.\1."
    ),
    *layer("params/embed", "embed"),
    Row("params/embed/table", ("embed.table",)),
)
TARGETS = {
    "params/b_0/attn/qkv/kernel": np.empty((2, 6), np.float32),
    "params/b_0/attn/qkv/bias": np.empty(6, np.float32),
    "params/embed/steps": np.empty((), np.int32),
    "params/embed/table": np.empty(3, np.float32),
}
SOURCE = {
    "blocks.0.attn.qkv.weight": np.arange(12, dtype=np.float16).reshape(6, 2),
    "blocks.0.attn.qkv.bias": np.arange(6, dtype=np.float32),
    "embed.num_batches_tracked": np.array(5),
    "embed.table": np.arange(3, dtype=np.float64),
    "mask": np.zeros(3),
}


def load(source, **more):
    return mapping.load(source, TARGETS, ROWS, **{"droppable": ["mask"], "where": "x.pth"} | more)


def test_load_and_save():
    leaves = load(SOURCE)
    assert {path: (x.shape, x.dtype) for path, x in leaves.items()} == {
        path: (x.shape, x.dtype) for path, x in TARGETS.items()
    }
    np.testing.assert_array_equal(leaves["params/b_0/attn/qkv/kernel"], SOURCE["blocks.0.attn.qkv.weight"].T)
    back = mapping.save(leaves, ROWS)
    assert back.keys() == SOURCE.keys() - {"mask"}
    assert back["embed.num_batches_tracked"].dtype == np.int64
    assert all(np.array_equal(back[key], SOURCE[key]) for key in back)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"blocks.0.attn.qkv.weight": np.zeros((9, 2))},
            r"x.pth is of another size: blocks.0.attn.qkv.weight has shape \(9, 2\), the model needs \(6, 2\)",
        ),
        ({"embed.table": None}, r"^x.pth lacks embed.table$"),
        ({"extra.weight": np.zeros(3)}, r"^x.pth has keys that the model does not: extra.weight$"),
        (
            {"embed.table": None} | {f"e{i}": np.zeros(1) for i in range(7)},
            r"^x.pth lacks embed.table and has keys that the model does not: e0, e1, e2, e3, e4 and 2 more$",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    source = {key: x for key, x in (SOURCE | changes).items() if x is not None}
    with pytest.raises(UserError, match=message):
        load(source)


def test_a_leaf_without_a_row_is_a_hole_in_the_table():
    with pytest.raises(KeyError, match="params/none"):
        mapping.load({}, {"params/none": np.empty(1)}, ROWS)


STACKS = (
    Row(r"layers/(\w)", (r"layer.0.\1", r"layer.1.\1"), mapping.stacked(mapping.TRANSPOSED, 2)),
    Row(
        "layers/qk",
        ("layer.0.q", "layer.0.k", "layer.1.q", "layer.1.k"),
        mapping.stacked(joined(mapping.TRANSPOSED, 2), 2),
    ),
    Row("first", ("experts[0]",), mapping.TRANSPOSED),
    Row("second", ("experts[1]",), mapping.TRANSPOSED),
    Row("tied", ("head", "embedding"), mapping.twice(mapping.AS_IS)),
)
OURS = {
    "layers/a": np.arange(12.0).reshape(2, 2, 3),
    "layers/qk": np.arange(24.0).reshape(2, 3, 4),
    "first": np.ones((2, 3)),
    "second": np.zeros((2, 3)),
    "tied": np.arange(3.0),
}


def test_stacked_layers_entries_of_one_tensor_and_tied_tensors_go_both_ways():
    theirs = mapping.save(OURS, STACKS)
    assert {name: x.shape for name, x in theirs.items()} == {
        **{f"layer.{i}.a": (3, 2) for i in range(2)},
        **{f"layer.{i}.{part}": (2, 3) for i in range(2) for part in "qk"},
        "experts": (2, 3, 2),
        "head": (3,),
        "embedding": (3,),
    }
    np.testing.assert_array_equal(theirs["layer.1.k"], OURS["layers/qk"][1][:, 2:].T)
    back = mapping.load(theirs, OURS, STACKS)
    assert back.keys() == OURS.keys()
    for path, leaf in OURS.items():
        np.testing.assert_array_equal(back[path], leaf)


def test_tensors_are_made_when_they_are_asked_for_and_their_sizes_before():
    leaves = {path: leaf for path, leaf in OURS.items() if path.startswith("layers")}
    tensors = mapping.MappedTensors(leaves, STACKS)
    assert tensors.sizes() == {name: tensors[name].nbytes for name in tensors}


def test_one_layer_too_few_is_named():
    theirs = mapping.save(OURS, STACKS)
    del theirs["layer.1.q"]
    with pytest.raises(UserError, match=r"layer\.1\.q"):
        mapping.load(theirs, OURS, STACKS)


@given(st.data())
def test_a_part_of_a_leaf_is_read_without_the_rest(tmp_path_factory, data):
    rng, layers = np.random.default_rng(0), 3
    leaves = {
        "layers/fc/kernel": rng.normal(size=(layers, 4, 6)).astype(np.float32),
        "layers/norm/scale": rng.normal(size=(layers, 5)).astype(np.float32),
        "head/kernel": rng.normal(size=(6, 7)).astype(np.float16),
    }
    rows = (
        Row("layers/fc/kernel", tuple(f"fc.{i}" for i in range(layers)), stacked(TRANSPOSED, layers)),
        Row("layers/norm/scale", tuple(f"norm.{i}" for i in range(layers)), stacked(AS_IS, layers)),
        Row("head/kernel", ("head",), TRANSPOSED),
    )
    folder = tmp_path_factory.mktemp("parts")
    safetensors.write_tensors(folder / "model.safetensors", MappedTensors(leaves, rows))
    tensors = safetensors.open_folder(folder)
    found = MappedLeaves(tensors, leaves, rows)
    path = data.draw(st.sampled_from(sorted(leaves)))
    ends = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in leaves[path].shape]
    index = tuple(slice(*of) for of in ends)
    assert found.has_parts(path)
    with mock.patch.object(safetensors.Tensors, "__getitem__", side_effect=AssertionError("a whole tensor is read")):
        part = found.part(path, index)
    assert part.dtype == leaves[path].dtype
    np.testing.assert_array_equal(part, leaves[path][index])
    short = MappedLeaves(tensors, {**leaves, path: np.zeros([n + 1 for n in leaves[path].shape])}, rows)
    with pytest.raises(UserError, match=r"of another size"):
        short.part(path, index)


def test_leaves_that_are_computed_from_tensors_have_no_parts():
    leaf = np.ones((2, 6), np.float32)
    rows = (Row("qkv/kernel", ("q", "k", "v"), joined(TRANSPOSED, 3)),)
    assert not MappedLeaves(MappedTensors({"qkv/kernel": leaf}, rows), {"qkv/kernel": leaf}, rows).has_parts(
        "qkv/kernel"
    )

"""Cuts of leaves: legal for any rank on any mesh."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from mtlora_jax.config import Mesh
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.sharding import MESH_AXES, partition_spec, shardings

MESHES = [make_mesh(Mesh(data, fsdp, tensor)) for data, fsdp, tensor in [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]]
CUBE = MESHES[2]


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("embed", "inner"), (16, 32), P("fsdp", "tensor")),
        (("embed", "inner"), (4, 16, 32), P(None, "fsdp", "tensor")),
        (("embed", "inner"), (3, 2, 16, 32), P(None, None, "fsdp", "tensor")),
        (("embed", "inner"), (15, 32), P(None, "tensor")),
        (("embed", "inner"), (32,), P("tensor")),
        (("embed", "inner"), (), P()),
        (("embed", "embed"), (16, 16), P("fsdp")),
        ((None, "inner"), (8, 31), P()),
        ((), (16, 16), P()),
    ],
)
def test_names_belong_to_trailing_axes(names, shape, expected):
    assert partition_spec(names, shape, CUBE) == expected


@given(
    st.lists(st.integers(1, 24), max_size=4),
    st.lists(st.sampled_from([None, "rank", *filter(None, MESH_AXES)]), max_size=4),
    st.sampled_from(MESHES),
)
@settings(deadline=None, max_examples=60)
def test_any_leaf_is_legal_on_any_mesh(shape, names, mesh):
    leaf = np.zeros(shape, np.float32)
    rows = (("leaf$", tuple(names)),)
    placed = jax.device_put({"leaf": leaf}, shardings(rows, {"leaf": leaf}, mesh))
    assert placed["leaf"].shape == leaf.shape


def test_moments_lie_where_their_leaf_lies():
    leaf = np.zeros((16, 32), np.float32)
    tree = {"params": {"q": {"kernel": leaf}}, "opt": {"mu": {"params": {"q": {"kernel": leaf}}}, "count": np.int32(0)}}
    found = shardings(((r"q/kernel$", ("embed", "inner")),), tree, CUBE)
    assert found["opt"]["mu"]["params"]["q"]["kernel"] == found["params"]["q"]["kernel"]
    assert found["opt"]["count"].spec == P()

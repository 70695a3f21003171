"""The mesh and batches on it, on eight fake devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mtlora_jax.config import Mesh
from mtlora_jax.engine.mesh import (
    batch_sharding,
    batch_shards,
    check_batch_size,
    joined,
    make_mesh,
    put_batch,
    put_parts,
    replicated,
)
from mtlora_jax.errors import UserError


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (Mesh(), (8, 1, 1)),
        (Mesh(fsdp=4), (2, 4, 1)),
        (Mesh(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        (Mesh(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (Mesh(data=1, tensor=-1), (1, 1, 8)),
    ],
)
def test_make_mesh(sizes, shape):
    mesh = make_mesh(sizes)
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert batch_shards(mesh) == shape[0] * shape[1]


def test_one_device_is_a_mesh():
    assert make_mesh(Mesh(), jax.devices()[3:4]).devices.item() == jax.devices()[3]


@pytest.mark.parametrize("sizes", [Mesh(fsdp=3), Mesh(data=4), Mesh(data=16), Mesh(data=-1, tensor=16)])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match=r"mesh: data=.* x fsdp=.* x tensor=.* does not fit 8 devices"):
        make_mesh(sizes)


def test_check_batch_size():
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    check_batch_size(12, mesh)
    with pytest.raises(UserError, match=r"train.batch_size = 6 does not divide over 4 devices; try 4 or 8$"):
        check_batch_size(6, mesh)
    with pytest.raises(UserError, match=r"train.eval_batch_size = 3 .*; try 4$"):
        check_batch_size(3, mesh, "train.eval_batch_size")


def test_parts_of_a_batch_divide_over_the_devices_too():
    mesh = make_mesh(Mesh())
    check_batch_size(32, mesh, parts=4)
    with pytest.raises(UserError, match=r"over 8 devices and 2 parts \(train.accumulate\); try 16 or 32"):
        check_batch_size(24, mesh, parts=2)


@pytest.mark.parametrize("sizes", [Mesh(), Mesh(fsdp=8, data=1), Mesh(data=2, fsdp=2, tensor=2)])
def test_put_batch(sizes):
    mesh = make_mesh(sizes)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (8, 4, 4, 3), np.uint8),
        "labels": {"depth": rng.normal(size=(8, 4, 4)).astype(np.float32)},
        "valid": {"depth": rng.random(8) < 0.5},
        "id": np.arange(8, dtype=np.int64),
    }
    placed = put_batch(batch, mesh)
    ids = batch.pop("id")
    assert len(ids) == 8
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert placed["image"].dtype == np.uint8
    assert placed["valid"]["depth"].dtype == bool
    for leaf in jax.tree.leaves(placed):
        assert leaf.sharding == batch_sharding(mesh)
        assert leaf.addressable_shards[0].data.shape[0] == 8 // batch_shards(mesh)


def test_windows_and_gathers_trace_under_the_mesh():
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    x = jax.device_put(np.arange(8 * 4 * 4.0, dtype=np.float32).reshape(8, 4, 4), batch_sharding(mesh))
    table = jax.device_put(np.eye(4, dtype=np.float32), NamedSharding(mesh, PartitionSpec("tensor")))

    @jax.jit
    def windows(x, table):
        return x.reshape(8, 2, 2, 2, 2).swapaxes(2, 3).reshape(32, 2, 2), table[x[:, 0, 0].astype(int) % 4]

    cut, rows = jax.device_put(windows(x, table), replicated(mesh))
    host = np.asarray(x)
    np.testing.assert_array_equal(cut[1], host[0, :2, 2:])
    np.testing.assert_array_equal(rows, np.eye(4)[host[:, 0, 0].astype(int) % 4])


def test_parts_of_one_block_are_made_at_once():
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    leaf, asked = np.arange(64.0, dtype=np.float32).reshape(4, 16), []

    def part(index):
        asked.append(index)
        return leaf[index]

    placed = put_parts(leaf.shape, NamedSharding(mesh, PartitionSpec("fsdp", "tensor")), part)
    np.testing.assert_array_equal(placed, leaf)
    assert asked == [(slice(0, 4), slice(0, 16))]
    assert put_parts((), replicated(mesh), lambda index: np.float32(3)[index]) == 3


def test_blocks_that_lie_together_are_joined():
    assert joined({((0, 2), (0, 8)), ((2, 4), (0, 8))}) == {((0, 4), (0, 8))}
    assert joined({((0, 2), (4, 8)), ((2, 4), (4, 8)), ((0, 2), (8, 12)), ((2, 4), (8, 12))}) == {((0, 4), (4, 12))}
    apart = {((0, 2), (0, 8)), ((4, 6), (0, 8))}
    assert joined(apart) == apart
    corner = {((0, 2), (0, 2)), ((2, 4), (2, 4))}
    assert joined(corner) == corner
    assert joined({()}) == {()}

"""safetensors in a store, read in parts."""

import json
from unittest import mock

import fsspec
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlora_jax import storage
from mtlora_jax.errors import UserError
from mtlora_jax.weights import ranged, safetensors

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.normal(size=(7, 3, 5)).astype(np.float32),
    "b": RNG.normal(size=(6, 4)).astype(ml_dtypes.bfloat16),
    "c": np.array(2.5, np.float16),
    "d": RNG.normal(size=(3,)),
    "e": np.zeros((0, 4), np.float32),
}
URL = "memory://bucket/model.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("ranged") / "x.safetensors"
    safetensors.write_tensors(path, TENSORS)
    return path.read_bytes()


@pytest.fixture
def put(data):
    def put(data: bytes = data) -> safetensors.Tensors:
        ranged._header.cache_clear()
        fsspec.filesystem("memory").pipe_file("/bucket/model.safetensors", data)
        return safetensors.Tensors(dict.fromkeys(TENSORS, URL))

    return put


def test_whole_tensors(put):
    tensors = put()
    assert tensors.dtypes() == {name: tensor.dtype for name, tensor in TENSORS.items()}
    for name, tensor in TENSORS.items():
        assert tensors.shape(name) == tensor.shape
        np.testing.assert_array_equal(tensors[name], tensor, strict=True)
    assert set(safetensors.Ranged(URL).keys()) == set(TENSORS)


@given(st.data())
def test_parts_are_read_by_their_rows_alone(data, choice):
    name = choice.draw(st.sampled_from("abde"))
    tensor = TENSORS[name]
    index = tuple(slice(*sorted(choice.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in tensor.shape)
    ranged._header.cache_clear()
    fsspec.filesystem("memory").pipe_file("/bucket/model.safetensors", data)
    tensors = safetensors.Tensors({name: URL})
    tensors.shape(name)
    with (
        mock.patch.object(ranged, "PIECE", choice.draw(st.integers(1, 64))),
        mock.patch.object(ranged, "read_ranges", side_effect=storage.read_ranges) as read,
    ):
        np.testing.assert_array_equal(tensors.part(name, index), tensor[index], strict=True)
    asked = sum(edges[-1] - edges[0] for _, edges in (call.args for call in read.call_args_list))
    assert asked == tensor[index[:1]].nbytes


def test_damaged_files(put, data):
    told = rf"^{URL} is truncated, damaged, or not a safetensors file \(.*\)$"
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])

    def changed(**about) -> bytes:
        text = json.dumps({**header, "a": {**header["a"], **about}}).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    assert put(changed())["a"].shape == (7, 3, 5)
    broken = {
        "no header": b"PK is not safetensors, and longer than eight",
        "short": b"abc",
        "not JSON": data[:8] + b"x" * size + data[8 + size :],
        "a list": (2).to_bytes(8, "little") + b"[]",
        "another shape": changed(shape=[7, 3, 4]),
        "no offsets": changed(data_offsets=None),
        "one offset": changed(data_offsets=[0]),
        "backwards": changed(data_offsets=[420, 0]),
        "no shape": changed(shape=7),
    }
    for what, found in broken.items():
        with pytest.raises(UserError, match=told):
            raise AssertionError(what, put(found)["a"])
    first = min(header, key=lambda name: header[name]["data_offsets"] if name != "__metadata__" else [np.inf])
    last = max(header, key=lambda name: header[name]["data_offsets"] if name != "__metadata__" else [-1])
    tensors = put(data[:-1])
    np.testing.assert_array_equal(tensors[first], TENSORS[first])
    with pytest.raises(UserError, match=told):
        tensors[last]
    with pytest.raises(UserError, match=r"^memory://nothing cannot be used: FileNotFoundError"):
        safetensors.Tensors({"a": "memory://nothing"})["a"]
    with pytest.raises(UserError, match=r"a is stored as F8_E4M3"):
        put(changed(dtype="F8_E4M3")).dtypes()

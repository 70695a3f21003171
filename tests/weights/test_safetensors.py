"""Files, names and what a weight file says about itself."""

import json

import numpy as np
import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.weights import safetensors

LEAVES = {"params/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "batch_stats/steps": np.array(3, np.int32)}


def test_written_leaves_and_their_description_read_back(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", LEAVES, {"source": "somewhere", "size": [1, 2]})
    leaves, about = safetensors.read(tmp_path / "x.safetensors")
    for path, leaf in LEAVES.items():
        np.testing.assert_array_equal(leaves[path], leaf, strict=True)
    assert json.loads(about["size"]) == [1, 2]
    changed = {**LEAVES, "params/a/kernel": LEAVES["params/a/kernel"] + 1e-6}
    safetensors.write(tmp_path / "y.safetensors", changed, {})
    assert about["fingerprint"] != safetensors.read(tmp_path / "y.safetensors")[1]["fingerprint"]


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, LEAVES, {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"x\.safetensors is truncated, damaged, or not a safetensors file"):
        safetensors.read(path)

"""The tfds builder: prepared by its command, read by name, equal to the source to the bit, no TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from mtlora_jax.vision.datasets.scenes import Scenes

pytestmark = pytest.mark.slow

READ = """
import pickle, sys
import tensorflow_datasets as tfds
import mtlora_jax.vision.datasets.scenes_tfds
out = {s: list(tfds.data_source("scenes/64", split=s, data_dir=sys.argv[1])) for s in ("train", "val")}
assert "tensorflow" not in sys.modules
with open(sys.argv[2], "wb") as file:
    pickle.dump(out, file)
"""


def test_round_trip_in_a_fresh_process(tmp_path):
    command = "-m mtlora_jax.vision.datasets.scenes_tfds --config 64 --max_examples_per_split 3 --data_dir"
    prepared = subprocess.run([sys.executable, *command.split(), str(tmp_path)], capture_output=True, text=True)
    assert prepared.returncode == 0, prepared.stderr
    assert "train 3, val 3" in prepared.stdout
    pickled = tmp_path / "out.pkl"
    read = subprocess.run([sys.executable, "-c", READ, str(tmp_path), str(pickled)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    stored = np.load(pickled, allow_pickle=True)
    for split in ("train", "val"):
        source = Scenes(64, length=3, split=split)
        assert len(stored[split]) == 3
        for index, example in enumerate(stored[split]):
            expected = source[index]
            assert example.keys() == expected.keys()
            assert example["id"] == index
            np.testing.assert_array_equal(example["image"], expected["image"], strict=True)
            for part in ("labels", "valid"):
                assert example[part].keys() == expected[part].keys()
                for task, value in expected[part].items():
                    np.testing.assert_array_equal(example[part][task], value)
                    assert np.asarray(example[part][task]).dtype == np.asarray(value).dtype


def test_an_unknown_size_is_one_line(tmp_path):
    command = "-m mtlora_jax.vision.datasets.scenes_tfds --config 100 --data_dir"
    refused = subprocess.run([sys.executable, *command.split(), str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "invalid choice: '100'" in refused.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())

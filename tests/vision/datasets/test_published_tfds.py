"""The published data sets as tfds builders: equal to their files to the bit, atomic, without TensorFlow."""

import subprocess
import sys

import pytest

from mtlora_jax.testing.published_layouts import write_nyud, write_pascal

pytestmark = pytest.mark.slow

COMPARE = """
import pickle, sys
from dataclasses import replace
import numpy as np
from mtlora_jax.vision.datasets.nyud import NyudData
from mtlora_jax.vision.datasets.pascal_context import PascalData
from mtlora_jax.vision.datasets.prepared import published_tasks

name, root, data_dir, *tasks = sys.argv[1:]
for split in ("train", "val"):
    data = {"pascal": PascalData, "nyud": NyudData}[name](root=root)
    chosen = published_tasks(data, tasks)
    files = data.native(split, chosen)
    records = pickle.loads(pickle.dumps(replace(data, prepared=data_dir).native(split, chosen)))
    assert len(records) == len(files) > 0
    for i in range(len(files)):
        wanted, found = files[i], records[i]
        assert list(wanted) == list(found) and list(wanted["labels"]) == list(found["labels"])
        assert wanted["valid"] == found["valid"] and wanted["id"] == found["id"] == i
        np.testing.assert_array_equal(found["image"], wanted["image"], strict=True)
        for task in tasks:
            np.testing.assert_array_equal(found["labels"][task], wanted["labels"][task], strict=True)
assert "tensorflow" not in sys.modules
"""

FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
from mtlora_jax.data import main
main(sys.argv[1:])
"""


def python(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def prepare(name, root, data_dir, *more):
    return python("-m", "mtlora_jax.data", "prepare", name, "--manual_dir", root, "--data_dir", data_dir, *more)


def refused(result, *words):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    for word in ("error: ", *words):
        assert word in line


def sets(data_dir):
    return sorted(str(path.parent.relative_to(data_dir)) for path in data_dir.rglob("dataset_info.json"))


@pytest.mark.parametrize(
    ("name", "write", "tasks"), [("pascal", write_pascal, ("semseg", "normals")), ("nyud", write_nyud, ("depth",))]
)
def test_prepared_records_equal_the_files(name, write, tasks, tmp_path):
    root, data_dir = write(tmp_path / "root", train=3, val=1), tmp_path / "prepared"
    prepared = prepare(name, root, data_dir, "--workers", 1)
    assert prepared.returncode == 0, prepared.stderr
    assert "train 3, val 1" in prepared.stdout
    compared = python("-c", COMPARE, name, root, data_dir, *tasks)
    assert compared.returncode == 0, compared.stderr

    def state():
        return {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_record*")}

    before = state()
    assert prepare(name, root, data_dir).returncode == 0
    assert state() == before


def test_human_parts_alone_are_prepared_as_published(tmp_path):
    root, data_dir = write_pascal(tmp_path / "root", train=4, val=2), tmp_path / "prepared"
    assert prepare("pascal", root, data_dir, "--workers", 0).returncode == 0
    without = python("-c", COMPARE, "pascal", root, data_dir, "human_parts")
    assert "is prepared in" in without.stderr.splitlines()[-1]
    assert prepare("pascal", root, data_dir, "--workers", 0, "--tasks", "human_parts").returncode == 0
    compared = python("-c", COMPARE, "pascal", root, data_dir, "human_parts")
    assert compared.returncode == 0, compared.stderr


def test_a_full_disk_leaves_no_half_of_a_set(tmp_path):
    root, data_dir = write_pascal(tmp_path / "root", train=3, val=1), tmp_path / "prepared"
    arguments = ("prepare", "pascal", "--manual_dir", root, "--data_dir", data_dir, "--workers", 0)
    refused(python("-c", FULL_DISK, *arguments), "cannot be written", "File too large")
    assert sets(data_dir) == []
    assert not list(data_dir.rglob("*.array_record*"))
    assert prepare("pascal", root, data_dir, "--workers", 0).returncode == 0
    assert sets(data_dir) == ["pascal_context_mt/all/1.0.0"]


def test_what_is_wrong_is_told(tmp_path):
    root, data_dir = write_nyud(tmp_path / "root", train=1, val=1), tmp_path / "prepared"
    (root / "depth" / "0002.npy").unlink()
    refused(prepare("nyud", root, data_dir, "--workers", 0), "depth: ", "0002.npy is missing")
    refused(prepare("nyud", root, "/proc/none", "--workers", 0, "--tasks", "semseg"), "--data_dir", "cannot be written")
    refused(prepare("nyud", tmp_path / "nowhere", data_dir), "--manual_dir", "no such folder")
    refused(prepare("nyud", root, data_dir, "--tasks", "human_parts"), "no labels of human_parts")
    refused(prepare("kitti", root, data_dir), "no published data set kitti")
    assert sets(data_dir) == []

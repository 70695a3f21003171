"""PASCAL-Context and NYUDv2 through files in their published layouts: what is read, and what is refused."""

import errno
import os
import pickle
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import scipy.io
from opening import nyud, pascal_context
from PIL import Image

from mtlora_jax.errors import UserError
from mtlora_jax.images import transforms
from mtlora_jax.testing.published_layouts import (
    GROUND_ID,
    SIZES,
    UNKNOWN_ID,
    VOC_CLASS,
    _scenes,
    write_nyud,
    write_pascal,
)
from mtlora_jax.vision.datasets.examples import Sized
from mtlora_jax.vision.datasets.nyud import NAMES
from mtlora_jax.vision.datasets.pascal_context import GROUP_OF, NORMALS_IDS, VOC_IDS
from mtlora_jax.vision.tasks import VOID, task

TRAIN = 4


@pytest.fixture(scope="module")
def pascal_root(tmp_path_factory):
    return write_pascal(tmp_path_factory.mktemp("pascal"), train=TRAIN, val=2)


@pytest.fixture(scope="module")
def nyud_root(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("nyud"), train=TRAIN, val=2)


def truth(split="train", length=TRAIN):
    """The scenes that the fixtures were drawn from."""
    return [example["labels"] for example in _scenes(split, length, 0)]


def without_void(label):
    return np.where(label == VOID, 0, label)


# --- what is read


def test_tables_are_those_of_the_specification():
    assert len(NORMALS_IDS) == len(set(NORMALS_IDS.tolist())) == 170
    assert len(VOC_IDS) == 20
    assert len(NAMES) == len(set(NAMES)) == 40
    assert sorted(set(GROUP_OF.values())) == [1, 2, 3, 4, 5, 6]
    assert len(GROUP_OF) == 24


def test_pascal_is_read_as_it_was_written(pascal_root):
    source = pascal_context(pascal_root, "train")
    assert len(source) == TRAIN
    for i, scene in enumerate(truth()):
        example = source[i]
        labels = example["labels"]
        assert example["image"].shape == (*SIZES[i % 2], 3)
        assert example["image"].dtype == np.uint8
        assert example["id"] == i
        assert source.entries[i].id == f"2008_train{i:03d}"
        assert example["valid"] == dict.fromkeys(labels, True)
        wanted = np.append(VOC_CLASS, np.full(249, VOID))[scene["semseg"]]
        np.testing.assert_array_equal(labels["semseg"], wanted)
        np.testing.assert_array_equal(labels["human_parts"], without_void(scene["human_parts"]))
        np.testing.assert_array_equal(labels["saliency"], scene["saliency"])
        assert {name: labels[name].dtype for name in labels if name != "normals"} == {
            name: np.dtype(np.uint8) for name in ("semseg", "human_parts", "saliency", "edges")
        }


def test_people_occur_in_the_fixture_and_so_does_their_absence():
    people = [np.any(without_void(scene["human_parts"])) for scene in truth()]
    assert True in people
    assert False in people


def test_pascal_normals_count_where_the_class_does(pascal_root):
    source = pascal_context(pascal_root, "train", ("normals",))
    for i, scene in enumerate(truth()):
        normals = source[i]["labels"]["normals"]
        kept = np.linalg.norm(normals, axis=-1) > 0
        label_map = scipy.io.loadmat(pascal_root / f"pascal-context/trainval/2008_train{i:03d}.mat")["LabelMap"]
        assert not np.any(kept[label_map == UNKNOWN_ID])
        known = (label_map == GROUND_ID) & (scene["normals"][..., 0] != VOID)
        assert known.any()
        wanted = scene["normals"][known] * [1, -1, 1]
        np.testing.assert_allclose(normals[known], wanted, atol=0.5 / 127.5 + 1e-6)
        assert normals.dtype == np.float32


def test_pascal_edges_are_thin_and_lie_where_classes_meet(pascal_root):
    source = pascal_context(pascal_root, "train", ("edges",))
    for i in range(TRAIN):
        label_map = scipy.io.loadmat(pascal_root / f"pascal-context/trainval/2008_train{i:03d}.mat")["LabelMap"]
        thick = np.abs(cv2.Laplacian(label_map, cv2.CV_64F)) > 0
        edges = source[i]["labels"]["edges"]
        assert not np.any((edges == 1) & ~thick)
        assert 0 < edges.sum() < thick.sum()


def test_a_part_lies_over_those_painted_before(pascal_root, tmp_path):
    root = shutil.copytree(pascal_root, tmp_path / "data")
    mask = np.zeros((48, 64), np.uint8)
    mask[:8] = 1
    parts = np.array([("head", mask), ("torso", np.roll(mask, 4, 0))], [("part_name", object), ("mask", object)])
    person = {"class": "person", "class_ind": 15.0, "mask": mask, "parts": parts[None]}
    horse = {"class": "horse", "class_ind": 13.0, "mask": mask, "parts": parts[None, :1]}
    objects = np.array([tuple(o.values()) for o in (person, horse)], [(k, object) for k in person])[None]
    scipy.io.savemat(root / "human_parts/2008_train000.mat", {"anno": {"imname": "x", "objects": objects}})
    label = pascal_context(root, "train", ("human_parts",))[0]["labels"]["human_parts"]
    assert label[:4].tolist() == np.full((4, 64), GROUP_OF["head"]).tolist()
    assert label[4:12].tolist() == np.full((8, 64), GROUP_OF["torso"]).tolist()
    assert not label[12:].any()


def test_images_without_people_are_left_out_of_human_parts_alone(pascal_root):
    people = [i for i, scene in enumerate(truth()) if np.any(without_void(scene["human_parts"]))]
    alone = pascal_context(pascal_root, "train", ("human_parts",))
    assert [entry.id for entry in alone.entries] == [f"2008_train{i:03d}" for i in people]
    assert len(pascal_context(pascal_root, "train", ("human_parts", "semseg"))) == TRAIN


def test_nyud_is_read_as_it_was_written(nyud_root):
    source = nyud(nyud_root, "train")
    for i, scene in enumerate(truth()):
        labels = source[i]["labels"]
        np.testing.assert_array_equal(labels["semseg"], scene["semseg"])
        np.testing.assert_array_equal(labels["depth"], without_void(scene["depth"]))
        np.testing.assert_array_equal(labels["normals"], without_void(scene["normals"]) * np.float32([1, -1, 1]))
        np.testing.assert_array_equal(labels["edges"], scene["edges"])
        assert [labels[name].dtype for name in ("semseg", "depth", "normals", "edges")] == ["u1", "f4", "f4", "u1"]


def test_only_the_files_of_the_tasks_asked_for_are_needed(pascal_root, nyud_root, tmp_path):
    root = shutil.copytree(pascal_root, tmp_path / "pascal")
    for folder in ("semseg", "human_parts", "normals_distill", "pascal-context"):
        shutil.rmtree(root / folder)
    assert list(pascal_context(root, "val", ("saliency",))[1]["labels"]) == ["saliency"]
    root = shutil.copytree(nyud_root, tmp_path / "nyud")
    for folder in ("segmentation", "normals", "edge"):
        shutil.rmtree(root / folder)
    assert list(nyud(root, "val", ("depth",))[1]["labels"]) == ["depth"]


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_what_nyud_s_sensor_did_not_see_is_void(nyud_root, tmp_path, unknown):
    root = shutil.copytree(nyud_root, tmp_path / "data")
    for name in ("depth", "normals"):
        path = root / name / "0001.npy"
        values = np.load(path)
        values[0, 0] = unknown
        np.save(path, values)
    labels = nyud(root, "train", ("depth", "normals"))[0]["labels"]
    assert labels["depth"][0, 0] == 0
    assert not labels["normals"][0, 0].any()
    assert all(np.isfinite(label).all() for label in labels.values())


def test_split_files_may_begin_with_a_byte_order_mark(pascal_root, tmp_path):
    root = shutil.copytree(pascal_root, tmp_path / "data")
    path = root / "ImageSets/Context/train.txt"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert pascal_context(root, "train", ("semseg",)).entries[0].id == FIRST


def test_a_folder_that_may_not_be_read_is_named_with_its_task(pascal_root, monkeypatch):
    listdir = os.listdir

    def guarded(path="."):
        if os.fspath(path).endswith("sal_distill"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)
    with pytest.raises(UserError, match=r"saliency: .*sal_distill cannot be listed: Permission denied"):
        pascal_context(pascal_root, "train", ("saliency",))


def test_nothing_is_written_into_the_data(pascal_root, nyud_root):
    def state(root):
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    for root, open_ in ((pascal_root, pascal_context), (nyud_root, nyud)):
        before = state(root)
        for source in (open_(root, "train"), open_(root, "val")):
            _ = [source[i] for i in range(len(source))]
        if open_ is pascal_context:
            open_(root, "train", ("human_parts",))
        assert state(root) == before


# --- brought to size


def published(name):
    """A task with as many classes as NYUDv2's labels may need."""
    return task(name, classes=40) if name == "semseg" else task(name)


def sized(source, names, augmentation, preset):
    return Sized(source, {name: published(name) for name in names}, 32, augmentation, transforms.PRESETS[preset])


@pytest.mark.parametrize("preset", transforms.PRESETS)
@pytest.mark.parametrize("data", ["pascal", "nyud"])
def test_sized_examples_have_a_batch_s_shapes(pascal_root, nyud_root, data, preset):
    names = ("semseg", "normals", "edges", "human_parts" if data == "pascal" else "depth")
    files = pascal_context(pascal_root, "train", names) if data == "pascal" else nyud(nyud_root, "train", names)
    source = pickle.loads(pickle.dumps(sized(files, names, transforms.SAMPLERS[data], preset)))
    for example in (source[1], source.augmented(1, np.random.default_rng(0))):
        assert example["image"].shape == (32, 32, 3)
        for name in names:
            label, t = example["labels"][name], task(name)
            assert label.shape == (32, 32, *t.label_shape)
            assert label.dtype == t.label_dtype
            assert example["valid"][name]


def test_augmentation_depends_on_the_generator_alone(pascal_root):
    names = ("semseg", "normals")
    source = sized(pascal_context(pascal_root, "train", names), names, transforms.pascal, "default")
    a, b, c = (source.augmented(0, np.random.default_rng(seed))["image"] for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(source[0]["image"], source[0]["image"])


def test_a_missing_label_is_void_and_invalid(nyud_root):
    names = ("depth", "human_parts", "normals")
    example = sized(nyud(nyud_root, "train", ("depth", "normals")), names, None, "default")[0]
    assert example["valid"] == {"depth": True, "human_parts": False, "normals": True}
    assert np.all(example["labels"]["human_parts"] == VOID)
    assert list(example["labels"]) == list(names)


# --- what is refused, in one line that names file and task


def rewrite_mat(path, **variables):
    scipy.io.savemat(path, variables)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def smaller(path):
    with Image.open(path) as picture:
        picture.resize((20, 20), Image.Resampling.NEAREST).save(path)


def of_class_77(path):
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels[:2] = 77
    Image.fromarray(pixels).save(path)


FIRST = "2008_train000"
PASCAL_FAULTS = {
    "no root": ("", shutil.rmtree, "semseg", ["there is no folder", "--data.root"]),
    "no split file": ("ImageSets/Context/train.txt", os.remove, "semseg", ["train.txt", "is missing"]),
    "empty split": ("ImageSets/Context/train.txt", partial(os.truncate, length=0), "semseg", ["train.txt is empty"]),
    "no image": (f"JPEGImages/{FIRST}.jpg", os.remove, "semseg", ["image: ", f"{FIRST}.jpg is missing"]),
    "no modality": ("normals_distill", shutil.rmtree, "normals", ["normals: there is no folder", "normals_distill"]),
    "no label map": ("pascal-context", shutil.rmtree, "normals", ["normals: there is no folder", "trainval"]),
    "no label": (
        f"sal_distill/{FIRST}.png",
        os.remove,
        "saliency",
        ["saliency: ", f"{FIRST}.png is missing", "leave saliency out"],
    ),
    "truncated jpg": (f"JPEGImages/{FIRST}.jpg", truncate, "semseg", ["image: ", f"{FIRST}.jpg", "truncated"]),
    "truncated png": (
        f"sal_distill/{FIRST}.png",
        truncate,
        "saliency",
        ["saliency: ", f"{FIRST}.png", "cannot be decoded"],
    ),
    "truncated mat": (
        f"human_parts/{FIRST}.mat",
        truncate,
        "human_parts",
        ["human_parts: ", f"{FIRST}.mat", "cannot be read as .mat"],
    ),
    "another struct": (
        f"human_parts/{FIRST}.mat",
        partial(rewrite_mat, anno={"things": 1}),
        "human_parts",
        ["human_parts: ", f"{FIRST}.mat", "anno.objects"],
    ),
    "another variable": (
        f"pascal-context/trainval/{FIRST}.mat",
        partial(rewrite_mat, Labels=np.zeros((48, 64))),
        "edges",
        ["edges: ", f"{FIRST}.mat", "no variable LabelMap"],
    ),
    "another size": (
        f"sal_distill/{FIRST}.png",
        smaller,
        "saliency",
        ["saliency: ", f"{FIRST}.png", "[20, 20]", "[48, 64]"],
    ),
    "class out of range": (
        f"semseg/VOC12/{FIRST}.png",
        of_class_77,
        "semseg",
        ["semseg: ", f"{FIRST}.png", "class 77", "77: 128"],
    ),
    "colours for classes": (
        f"semseg/VOC12/{FIRST}.png",
        lambda path: Image.new("RGB", (64, 48)).save(path),
        "semseg",
        ["semseg: ", f"{FIRST}.png", "RGB"],
    ),
}


@pytest.mark.parametrize("fault", PASCAL_FAULTS)
def test_pascal_faults_are_named(pascal_root, tmp_path, fault):
    path, spoil, name, words = PASCAL_FAULTS[fault]
    root = shutil.copytree(pascal_root, tmp_path / "data")
    spoil(root / path)
    with pytest.raises(UserError) as error:
        _ = pascal_context(root, "train", (name, "saliency") if name == "human_parts" else (name,))[0]
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


NYUD_FAULTS = {
    "no modality": ("depth", shutil.rmtree, "depth", ["depth: there is no folder"]),
    "not npy": (
        "depth/0001.npy",
        lambda path: path.write_bytes(b"depth"),
        "depth",
        ["depth: ", "0001.npy", "cannot be read"],
    ),
    "truncated npy": ("normals/0001.npy", truncate, "normals", ["normals: ", "0001.npy", "cannot be read"]),
    "other axes": (
        "depth/0001.npy",
        lambda path: np.save(path, np.ones((48, 64, 2))),
        "depth",
        ["depth: ", "[48, 64, 2]"],
    ),
    "two channels": (
        "normals/0001.npy",
        lambda path: np.save(path, np.ones((48, 64, 2))),
        "normals",
        ["normals: ", "3"],
    ),
    "class out of range": ("segmentation/0001.png", of_class_77, "semseg", ["semseg: ", "0001.png", "class 76"]),
}


@pytest.mark.parametrize("fault", NYUD_FAULTS)
def test_nyud_faults_are_named(nyud_root, tmp_path, fault):
    path, spoil, name, words = NYUD_FAULTS[fault]
    root = shutil.copytree(nyud_root, tmp_path / "data")
    spoil(root / path)
    with pytest.raises(UserError) as error:
        _ = nyud(root, "train", (name,))[0]
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_pickle_in_an_npy_is_not_opened(nyud_root, tmp_path):
    root = shutil.copytree(nyud_root, tmp_path / "data")
    np.save(root / "depth/0001.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"depth: .*0001\.npy"):
        _ = nyud(root, "train", ("depth",))[0]


def test_labels_of_another_size_are_resized_on_request(pascal_root, tmp_path):
    root = shutil.copytree(pascal_root, tmp_path / "data")
    for folder in ("sal_distill", "normals_distill"):
        smaller(root / f"{folder}/{FIRST}.png")
    rewrite_mat(root / f"pascal-context/trainval/{FIRST}.mat", LabelMap=np.full((20, 20), GROUND_ID, np.uint16))
    labels = pascal_context(root, "train", ("saliency", "normals"), resize=True)[0]["labels"]
    assert labels["saliency"].shape == (48, 64)
    assert set(np.unique(labels["saliency"])) <= {0, 1}
    assert labels["normals"].shape == (48, 64, 3)

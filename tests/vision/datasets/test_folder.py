"""A data set of one's own: what is read, with gaps and without, and what the check command finds."""

import json
import shutil

import numpy as np
import pytest
from opening import native, opened
from PIL import Image

from mtlora_jax.data import main
from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.testing.published_layouts import SIZES, _scenes, write_folder, write_pascal
from mtlora_jax.vision.config import FolderData, TaskConfig, VisionConfig
from mtlora_jax.vision.datasets.scenes import CLASSES, TASKS
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import VOID
from mtlora_jax.vision.workload import make_workload

RECIPE = """
from mtlora_jax.vision.config import FolderData, TaskConfig, VisionConfig

def get_config():
    tasks = {"semseg": TaskConfig(classes=tuple("abcdefg")), "depth": TaskConfig()}
    return VisionConfig(tasks=tasks, data=FolderData())
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("own"), TASKS, train=3, val=2)


@pytest.fixture
def root(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "own")


def check(root, tmp_path, *more, recipe=RECIPE):
    """What `data check` reports of a folder."""
    (tmp_path / "mine.py").write_text(recipe)
    out = ("--out", str(tmp_path / "out"), "--workers", "0")
    main(["check", "--config", str(tmp_path / "mine.py"), f"--data.root={root}", *out, *more])
    return json.loads((tmp_path / "out" / "report.json").read_text())


def config(root, tasks=TASKS, **options):
    names = {"semseg": CLASSES}
    return VisionConfig(
        backbone=SwinSpec(image_size=32),
        tasks={task: TaskConfig(classes=names.get(task, ())) for task in tasks},
        data=FolderData(root=str(root), **options),
    )


def test_labels_are_read_as_they_were_written(clean):
    source = native(config(clean), "train")
    for i, scene in enumerate(_scenes("train", 3, 0)):
        example, wanted = source[i], scene["labels"]
        assert example["image"].shape == (*SIZES[i % 2], 3)
        for task in ("semseg", "human_parts", "saliency", "edges"):
            np.testing.assert_array_equal(example["labels"][task], wanted[task], strict=True)
        normals = np.where(wanted["normals"] == VOID, 0, wanted["normals"])
        np.testing.assert_array_equal(example["labels"]["normals"], normals, strict=True)
        metres = np.where(wanted["depth"] == VOID, 0, wanted["depth"])
        np.testing.assert_allclose(example["labels"]["depth"], metres, atol=0.00051)


def test_pngs_that_are_exact_are_read_exactly(clean):
    source = native(config(clean, ("semseg",)), "train")
    scene = list(_scenes("train", 2, 0))[1]
    np.testing.assert_array_equal(source[1]["image"], scene["image"])


def test_formats_of_every_task(root):
    def label(task, **options):
        return native(config(root, (task,), **options), "train")[0]["labels"][task]

    def put(task, suffix, array):
        for old in (root / task).glob("train 0.*"):
            old.unlink()
        path = root / task / f"train 0{suffix}"
        np.save(path, array) if suffix == ".npy" else Image.fromarray(array).save(path)

    H, W = SIZES[0]
    put("semseg", ".npy", np.full((H, W), 3, np.int64))
    assert np.all(label("semseg") == 3)
    put("saliency", ".png", np.full((H, W), 200, np.uint8))
    assert np.all(label("saliency", masks="grey") == 1)
    put("edges", ".npy", np.full((H, W, 1), 0.4))
    assert np.all(label("edges", masks="grey") == 0)
    put("depth", ".npy", np.full((H, W), np.nan))
    assert np.all(label("depth") == 0)
    put("depth", ".png", np.full((H, W), 2000, np.uint16))
    assert np.all(label("depth") == 2)
    assert np.all(label("depth", depth_unit=0.01) == 20)
    put("normals", ".png", np.tile(np.array([128, 128, 255], np.uint8), (H, W, 1)))
    np.testing.assert_allclose(label("normals")[0, 0], [1 / 255, 1 / 255, 1], atol=1e-6)
    put("normals", ".png", np.zeros((H, W, 3), np.uint8))
    assert np.all(label("normals") == 0)
    put("normals", ".npy", np.full((H, W, 3), 255.0))
    assert np.all(label("normals") == 0)


def test_folders_may_have_other_names(root):
    (root / "semseg").rename(root / "masks")
    (root / "images").rename(root / "rgb")
    source = opened(config(root, ("semseg",), images="rgb", folders={"semseg": "masks"}), "train")
    assert source[0]["valid"] == {"semseg": True}


def test_gaps_make_examples_invalid_for_a_task(root):
    (root / "depth" / "train 1.png").unlink()
    with pytest.raises(UserError, match=r"depth: .*train 1.png is missing"):
        opened(config(root, ("semseg", "depth")), "train")
    source = opened(config(root, ("semseg", "depth"), gaps=True), "train")
    assert [bool(source[i]["valid"]["depth"]) for i in range(3)] == [True, False, True]
    assert np.all(source[1]["labels"]["depth"] == VOID)
    assert source[1]["valid"]["semseg"]
    shutil.rmtree(root / "depth")
    with pytest.raises(UserError, match="depth: there is no folder"):
        opened(config(root, ("semseg", "depth"), gaps=True), "train")


@pytest.mark.parametrize(
    ("task", "array", "words"),
    [
        ("semseg", np.full(SIZES[0], 9, np.uint8), "class 9 is not one of 0..6"),
        ("edges", np.full(SIZES[0], 2, np.uint8), "class 2 is not one of 0..1"),
        ("semseg", np.full(SIZES[0], np.inf), "classes are whole numbers"),
        ("semseg", np.full(SIZES[0], np.nan), "classes are whole numbers"),
        ("semseg", np.full(SIZES[0], -1), "class -1"),
        ("semseg", np.full(SIZES[0], 0.5), "whole numbers"),
        ("normals", np.full((*SIZES[0], 3), 2.0), "unit vectors"),
        ("normals", np.full((*SIZES[0], 2), 0.5), "3"),
        ("depth", np.full((*SIZES[0], 2), 0.5), "H, W"),
    ],
)
def test_labels_out_of_range_are_refused(root, task, array, words):
    (root / task / "train 0.png").unlink(missing_ok=True)
    np.save(root / task / "train 0.npy", array)
    with pytest.raises(UserError, match=rf"{task}: .*train 0\.npy.*{words}"):
        _ = opened(config(root, (task,)), "train")[0]


# --- the check command


def test_check_reports_what_there_is(root, tmp_path, capsys):
    report = check(root, tmp_path)
    printed = capsys.readouterr().out
    semseg = report["train"]["semseg"]
    scenes = [scene["labels"]["semseg"] for scene in _scenes("train", 3, 0)]
    assert semseg["read"] == 3
    assert semseg["sizes"] == {"48x64": 2, "64x48": 1}
    assert semseg["void"] == pytest.approx(np.mean([(s == VOID).sum() for s in scenes]) / (48 * 64), abs=1e-6)
    values, counts = np.unique(np.stack([s.ravel() for s in scenes]), return_counts=True)
    wanted = {str(v): int(n) for v, n in zip(values, counts, strict=True) if v != VOID}
    assert semseg["histogram"] == wanted
    for split, rows in (("train", 3), ("val", 2)):
        sheet = np.asarray(Image.open(tmp_path / "out" / f"{split}.png"))
        assert sheet.shape[0] > rows * 160
    assert "48x64, 64x48" in printed


def test_check_reads_on_past_what_is_broken(root, tmp_path, capsys):
    (root / "depth" / "train 1.png").unlink()
    (root / "images" / "val 0.jpg").write_bytes(b"no picture")
    np.save(root / "semseg" / "train 0.npy", np.full(SIZES[0], 77))
    (root / "semseg" / "train 0.png").unlink()
    with pytest.raises(SystemExit) as stop:
        check(root, tmp_path)
    assert stop.value.code == 2
    streams = capsys.readouterr()
    assert "missing or broken files: 3" in streams.err
    for words in ("depth: ", "train 1.png is missing", "image: ", "val 0.jpg", "class 77", "77: 3072"):
        assert words in streams.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["train"]["semseg"]["read"] == 2
    assert len(report["val"]["image"]["broken"]) == 1


def test_check_compares_with_published_metrics(tmp_path, capsys):
    root = write_pascal(tmp_path / "pascal", train=2, val=1)
    command = ["check", "--config", "configs/pascal_mtlora.py", f"--data.root={root}", "--expect", "pascal"]
    main([*command, "--out", str(tmp_path / "out"), "--workers", "0"])
    printed = capsys.readouterr().out
    assert "differs: train names 2 images, published 4998 (recalled, never checked)" in printed
    assert "agrees: train human_parts" in printed


def test_check_sees_masks_of_0_and_255(root, tmp_path, capsys):
    for path in (root / "saliency").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * np.uint8(255)).save(path)
    recipe = RECIPE.replace('"depth"', '"saliency"')
    check(root, tmp_path, recipe=recipe)
    assert "train saliency: never 1; for masks of 0 and 255: --data.masks=grey" in capsys.readouterr().out
    check(root, tmp_path, "--data.masks=grey", recipe=recipe)
    assert "never 1" not in capsys.readouterr().out


def test_masks_of_one_bit_are_masks_in_either_form(root):
    for path in (root / "saliency").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) == 1).save(path)
    for masks in ("classes", "grey"):
        label = native(config(root, ("saliency",), masks=masks), "train")[0]["labels"]["saliency"]
        assert set(np.unique(label)) == {0, 1}


def renumber(root, change):
    for path in (root / "semseg").glob("*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)).astype(np.int64)).astype(np.uint8)).save(path)


def test_classes_may_have_numbers_of_their_own(root):
    """ADE20K counts from 1, and 0 is void; Cityscapes skips numbers; CamVid's 11 is void."""
    wanted = [native(config(root, ("semseg",)), "train")[i]["labels"]["semseg"] for i in range(3)]
    renumber(root, lambda label: np.where(label == 255, 0, 10 + 3 * label))
    numbers, void = {"semseg": tuple(range(10, 31, 3))}, {"semseg": (0,)}
    source = native(config(root, ("semseg",), numbers=numbers, void=void), "train")
    for i in range(3):
        np.testing.assert_array_equal(source[i]["labels"]["semseg"], wanted[i], strict=True)
    with pytest.raises(UserError, match=r"semseg: .*png: holds 0, which data.numbers.semseg and data.void.semseg do"):
        native(config(root, ("semseg",), numbers=numbers), "train")[0]
    void = {"semseg": (2,)}
    renumber(root, lambda label: np.where(label == 0, 255, (label - 10) // 3))
    for label, own in zip(wanted, native(config(root, ("semseg",), void=void), "train"), strict=True):
        np.testing.assert_array_equal(own["labels"]["semseg"], np.where(label == 2, VOID, label))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numbers": {"semseg": (1, 2)}}, "data.numbers.semseg names 2 numbers, semseg has 7 classes"),
        ({"void": {"depth": (0,)}}, "data.void.depth: the run has no task depth of classes"),
        ({"void": {"edges": (0, 0)}}, "data.void.edges names a number twice"),
        ({"numbers": {"edges": (0, 255)}, "void": {"edges": (255,)}}, "both name 255"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(clean, options, words):
    with pytest.raises(UserError, match=words):
        (of := config(clean, **options)).data.check(of.make_tasks())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_none_are_unknown(root, bad):
    (root / "depth" / "train 0.png").unlink()
    depth = np.full(SIZES[0], 2.0)
    depth[0, 0] = bad
    np.save(root / "depth" / "train 0.npy", depth)
    normals = np.tile(np.array([0.0, 0.0, 1.0]), (*SIZES[0], 1))
    normals[0, 0, 1] = bad
    np.save(root / "normals" / "train 0.npy", normals)
    labels = native(config(root, ("depth", "normals")), "train")[0]["labels"]
    assert labels["depth"][0, 0] == 0
    assert not labels["normals"][0, 0].any()
    assert np.isfinite(labels["depth"]).all()
    assert np.isfinite(labels["normals"]).all()


@pytest.mark.parametrize(
    "written",
    [
        "\ufefftrain 0\r\ntrain 1\r\n".encode(),
        "train 0\ntrain 1\n".encode("utf-16"),
        b"train 0.jpg\ntrain 1.png\n",
        b"images/train 0.jpg\nimages/train 1.png\n",
        b"C:\\data\\images\\train 0.jpg\ntrain 1\n",
    ],
)
def test_split_files_as_people_write_them(root, written):
    (root / "train.txt").write_bytes(written)
    source = native(config(root, ("semseg",)), "train")
    assert [source.name(i) for i in range(len(source))] == ["train 0", "train 1"]


def test_a_split_file_may_name_image_and_label(root):
    for folder in ("images", "semseg"):
        for path in (root / folder).iterdir():
            path.rename(path.with_name(path.name.replace(" ", "_")))
    (root / "train.txt").write_text("images/train_0.jpg semseg/train_0.png\n")
    assert native(config(root, ("semseg",)), "train").name(0) == "train_0"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("train 0\u200b\n".encode(), r"train 0\\u200b"),
        (b"train 0\n\xff\xfe\n", r"train\.txt, line 2: is not text in UTF-8"),
        ("train 0\n".encode("utf-16-le"), "holds NUL characters"),
    ],
)
def test_what_cannot_be_seen_in_a_split_file_is_shown(root, written, words):
    (root / "train.txt").write_bytes(written)
    with pytest.raises(UserError, match=words):
        native(config(root, ("semseg",)), "train")


def test_check_names_images_that_are_named_twice(root, tmp_path, capsys):
    (root / "train.txt").write_text("train 0\ntrain 1\ntrain 0\nval 0\n")
    check(root, tmp_path)
    printed = capsys.readouterr().out
    assert "train names 1 images more than once: train 0" in printed
    assert "1 images are in both train and val: val 0" in printed


def test_training_says_at_its_start_which_tasks_have_nothing_to_learn_from(root, capsys):
    for path in (root / "semseg").glob("*.png"):
        Image.fromarray(np.full(read.shape(path), VOID, np.uint8)).save(path)
    make_workload(config(root, ("semseg", "depth"))).constant()
    assert "semseg: not one pixel is known, in the first 3 training examples" in capsys.readouterr().err


def test_check_refuses_what_it_cannot_read(tmp_path, capsys):
    for arguments, words in (
        (["--config", "configs/scenes_pretrain.py"], "PretrainConfig makes its own data"),
        (["--config", "configs/text_pretrain.py"], "TextPretrainConfig makes its own data"),
        (["--config", "configs/pascal_mtlora.py", "--expect", "kitti"], "--expect kitti"),
        ([], "--config FILE"),
        (["--config", "configs/pascal_mtlora.py"], "data.root is empty"),
    ):
        with pytest.raises(SystemExit):
            main(["check", *arguments, "--out", str(tmp_path / "out")])
        assert words in capsys.readouterr().err

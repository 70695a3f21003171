"""The four published sets: what is read of them, and what is said where they are broken."""

import json
import shutil
from functools import partial

import h5py
import numpy as np
import pytest
import vl

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.config import ImageTextConfig, PublishedData
from mtlora_jax.image_text.datasets.check import check
from mtlora_jax.image_text.datasets.features import FEATURES
from mtlora_jax.image_text.source import tokenizer_of
from mtlora_jax.image_text.tasks import TASKS
from mtlora_jax.image_text.visual import VisualSpec
from mtlora_jax.image_text.workload import open_questions
from mtlora_jax.testing.image_text_layouts import write


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("vl") / "root")


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "root")


def config(root, **changes) -> ImageTextConfig:
    return ImageTextConfig(visual=VisualSpec(features=16), data=PublishedData(root=str(root)), **changes)


def opened(root, split="test", **changes):
    made = config(root, **changes)
    return open_questions(made, partial(tokenizer_of, made), split)


def test_golden_questions_are_read_as_the_reference_reads_them():
    data = PublishedData(root=str(vl.DATA / "vl_tiny_data"))
    for split, part in (("train", "train"), ("val", "eval")):
        tasks = [task for task in TASKS if split == "train" or task in ("vqa", "gqa")]
        found = data.open(split, tasks)
        for task in tasks:
            items, own = vl.PROMPTS[part][task]["items"], [q for q in found if q.task == task]
            assert len(own) == len(items)
            for item, question in zip(items, own, strict=True):
                assert item["text"] == TASKS[task].prefix + question.text
                names = [image.rpartition("/")[2] for image in question.images]
                assert names == (item["img_id"] if isinstance(item["img_id"], list) else [item["img_id"]])
                if "label" in item and task != "nlvr":
                    assert question.answers == item["label"]


def test_scenes_in_the_published_layout_are_whole(whole):
    train, test = opened(whole, "train"), opened(whole)
    assert train.sizes() == (12, 12, 12, 30)
    assert test.sizes() == (8, 8, 8, 4)
    by_task = {question.task: question for question in test.questions}
    assert len(by_task["vqa"].references) == 10
    assert len(by_task["caption"].references) == 5
    assert len(by_task["nlvr"].images) == 2


def edit(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


BROKEN = {
    "a missing folder": (lambda r: shutil.rmtree(r), "there is no folder"),
    "a missing file": (lambda r: (r / "GQA" / "testdev.json").unlink(), r"testdev\.json"),
    "a truncated file": (
        lambda r: (r / "nlvr" / "test.json").write_text((r / "nlvr" / "test.json").read_text()[:50]),
        r"test\.json",
    ),
    "a question file of another year": (
        lambda r: edit(r / "vqa" / "karpathy_test.json", lambda t: t[0].update(question_id=999)),
        "question 999 has no annotators in v2_mscoco_train2014.*another year",
    ),
    "an answer set without annotators": (
        lambda r: edit(
            r / "vqa" / "v2_mscoco_val2014_annotations.json", lambda t: t["annotations"][0].update(answers=[])
        ),
        "has no annotators' answers",
    ),
    "questions in the place of annotations": (
        lambda r: (r / "vqa" / "v2_mscoco_val2014_annotations.json").write_text('{"questions": []}'),
        "holds no annotations",
    ),
    "a caption file without references": (
        lambda r: edit(r / "COCO" / "dataset_coco.json", lambda t: [i.update(sentences=[]) for i in t["images"]]),
        "has no captions",
    ),
    "a caption file of another kind": (
        lambda r: (r / "COCO" / "dataset_coco.json").write_text('{"annotations": []}'),
        "holds no images",
    ),
    "a label out of range": (
        lambda r: edit(r / "nlvr" / "test.json", lambda t: t[0].update(label=2)),
        "the label is 2",
    ),
    "a score out of range": (
        lambda r: edit(r / "GQA" / "testdev.json", lambda t: t[0].update(label={"yes": 3})),
        "the score 3",
    ),
    "a record without a field": (
        lambda r: edit(r / "GQA" / "testdev.json", lambda t: t[1].pop("sent")),
        r"testdev\.json, record 1: sent should be a text, and is None",
    ),
    "an image id without features": (
        lambda r: next((r / "GQA" / FEATURES).iterdir()).unlink(),
        "1 test pictures have no features: GQA/",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sets_are_told_in_one_line(root, name):
    damage, said = BROKEN[name]
    damage(root)
    with pytest.raises(UserError, match=said) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_features_of_another_width_or_kind(root):
    wide = ImageTextConfig(data=PublishedData(root=str(root)))
    with pytest.raises(UserError, match=r"16 wide, the model reads 2048: say --visual.features=16"):
        open_questions(wide, partial(tokenizer_of, wide), "test")
    questions = opened(root)
    path = next((root / "COCO" / FEATURES).iterdir())
    image = f"COCO/{path.stem}"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"truncated, damaged, or no HDF5 file"):
        questions.features[image]
    with h5py.File(path, "w") as file:
        file.create_dataset("other/features", data=np.zeros((49, 16)))
    with pytest.raises(UserError, match="holds no"):
        questions.features[image]
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{path.stem}/features", data=np.zeros((16, 7, 7)))
    with pytest.raises(UserError, match="two axes"):
        questions.features[image]


def test_what_is_wrong_with_a_config(whole):
    from mtlora_jax.image_text.decode import Search

    for changes, said in (
        ({"search": Search(beams=0)}, r"search\.beams must be at least 1, not 0"),
        ({"lengths": ((40, 8), (20, 8))}, "lengths must be rising"),
        ({"tasks": {}}, "tasks is empty"),
        ({"trainable": ()}, "nothing would train"),
        ({"temperature": 0.0}, "temperature"),
        ({"dropout": 1.0}, "dropout"),
    ):
        with pytest.raises(UserError, match=said):
            config(whole, **changes).validate()


def test_the_data_is_inspected_before_it_trains(whole, tmp_path, capsys):
    check(config(whole), tmp_path / "out")
    out = capsys.readouterr().out
    assert "longest input" in out
    assert "report.json" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["questions"] for row in report["train"]] == [12, 12, 12, 30]
    with pytest.raises(UserError, match="no counts"):
        check(config(whole), tmp_path / "out", "vqa")

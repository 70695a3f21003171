"""From files to results as a user starts it: published data sets, one's own, disjoint ones; all made tiny."""

import dataclasses
import json

import numpy as np
import pytest
from opening import opened
from processes import runner

from mtlora_jax.cli import parse_door
from mtlora_jax.domains import workload_of
from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import Loader, batches_of
from mtlora_jax.testing.published_layouts import write_folder, write_nyud, write_pascal

TINY = (
    "--init_from=None",
    "--backbone.image_size=32",
    "--backbone.window=4",
    "--backbone.dim=8",
    "--backbone.depths=1,1",
    "--backbone.heads=1,2",
    "--decoder_channels=2,2",
    "--train.batch_size=2",
    "--train.steps=3",
    "--train.log_every=1",
    "--train.workers=1",
    "--optim.warmup_steps=1",
)
OWN = """
from configs.pascal_mtlora_r16 import get_config as parent
from dataclasses import replace
from mtlora_jax.vision.config import FolderData, MixtureData

def get_config():
    return replace(parent(), data={data})
"""
OWN_FOLDER = "FolderData(root='{0}/own')"
DISJOINT = (
    "MixtureData(sources={{'a': FolderData(root='{0}/a', tasks=('semseg', 'normals')), "
    "'b': FolderData(root='{0}/b', tasks=('saliency',)), 'c': FolderData(root='{0}/c', tasks=('human_parts',))}})"
)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs `train.py` in a process of its own; all runs share compiled programs, which are not optimised."""
    run = runner(tmp_path_factory.mktemp("xla"))

    def train(recipe, workdir, *overrides):
        train.printed = run("train.py", "--config", recipe, "--workdir", workdir, *TINY, *overrides)
        return json.loads((workdir / "results.json").read_text())

    train.run = run
    return train


def complete(results, tasks):
    assert results["last"]["step"] == 3
    metrics = results["last"]["metrics"]
    assert set(metrics) == {*tasks, "total"}
    assert np.isfinite([metrics[name]["loss"] for name in metrics]).all()


PASCAL = ("semseg", "normals", "saliency", "human_parts")


@pytest.mark.slow
def test_published_layouts(train, tmp_path):
    root = write_pascal(tmp_path / "pascal", train=3, val=2)
    results = train("configs/pascal_mtlora_r16.py", tmp_path / "run", f"--data.root={root}")
    complete(results, PASCAL)
    assert results["last"]["metrics"]["total"]["delta_m"] < 0
    assert "delta_m" in train.printed

    # The same checkpoint at native resolution, its predictions kept.
    printed = train.run(
        "eval.py", "--workdir", tmp_path / "run", "--protocol", "native", "--predictions", tmp_path / "out"
    )
    for words in ("mIoU", "IoU/person", "delta_m"):
        assert words in printed
    for name in PASCAL:
        assert len(list((tmp_path / "out" / name).glob("2008_val*.png"))) == 2
    stored = json.loads((tmp_path / "run" / "evaluation_native.json").read_text())
    assert (stored["protocol"], stored["step"]) == ("native", 3)
    assert stored["metrics"]["semseg"] != results["last"]["metrics"]["semseg"]

    root = write_nyud(tmp_path / "nyud", train=3, val=2)
    results = train("configs/nyud_mtlora_r64_edges.py", tmp_path / "run2", f"--data.root={root}")
    complete(results, ("semseg", "normals", "depth", "edges"))


@pytest.mark.slow
def test_a_folder_of_one_s_own_and_tasks_from_disjoint_folders(train, tmp_path):
    recipe = tmp_path / "recipes" / "mine.py"
    recipe.parent.mkdir()
    write_folder(tmp_path / "own", PASCAL, train=3, val=2)
    recipe.write_text(OWN.format(data=OWN_FOLDER.format(tmp_path)))
    complete(train(recipe, tmp_path / "run"), PASCAL)
    for name, tasks in {"a": ("semseg", "normals"), "b": ("saliency",), "c": ("human_parts",)}.items():
        write_folder(tmp_path / name, tasks, train=2, val=1, seed=ord(name))
    recipe.write_text(OWN.format(data=DISJOINT.format(tmp_path)))
    complete(train(recipe, tmp_path / "run2", "--train.steps=3"), PASCAL)


@pytest.fixture(scope="module")
def pascal(tmp_path_factory):
    root = write_pascal(tmp_path_factory.mktemp("pascal"), train=3, val=2)
    return parse_door(["--config", "configs/pascal_mtlora_r16.py", *TINY, f"--data.root={root}"]).config


def test_a_run_stopped_in_mid_epoch_goes_on_with_the_same_batches(pascal):
    source = batches_of(opened(pascal, "train"), pascal.train.batch_size)
    in_line = dataclasses.replace(pascal, train=dataclasses.replace(pascal.train, workers=0))

    def batches(first):
        with Loader(source, in_line, first) as loader:
            return list(loader.until(4))

    whole, rest = batches(0), batches(2)
    for (step, wanted), (again, batch) in zip(whole[2:], rest, strict=True):
        assert step == again
        assert wanted["id"].tolist() == batch["id"].tolist()
        np.testing.assert_array_equal(wanted["image"], batch["image"])
        for name in pascal.tasks:
            np.testing.assert_array_equal(wanted["labels"][name], batch["labels"][name])


def test_batches_are_what_the_workload_expects(pascal):
    with Loader(batches_of(opened(pascal, "train"), pascal.train.batch_size), pascal) as loader:
        batch = next(loader.until(1))[1]
    wanted = workload_of(pascal).abstract_batch(2)
    for kind in ("labels", "valid"):
        assert {n: (x.shape, x.dtype) for n, x in batch[kind].items()} == {
            n: (x.shape, x.dtype) for n, x in wanted[kind].items()
        }
    assert (batch["image"].shape, batch["image"].dtype) == (wanted["image"].shape, wanted["image"].dtype)


def test_without_a_root_it_is_asked_for():
    config = parse_door(["--config", "configs/pascal_mtlora_r16.py"]).config
    with pytest.raises(UserError, match=r"data.root is empty.*--data.root=DIR"):
        opened(config, "train")


def test_scenes_are_trained_in_the_classes_they_have():
    with pytest.raises(UserError, match=r"tasks.semseg has 1 classes, data has 7: name as many"):
        parse_door(["--config", "configs/scenes_smoke.py", "--tasks.semseg.classes=3"]).config.validate()


def test_a_task_that_the_data_lacks_is_refused(pascal):
    nyud = parse_door(["--config", "configs/nyud_mtlora_r64.py"]).config.data
    for task, words in {"saliency": "has no labels of it", "semseg": "has 21 classes, data has 40"}.items():
        config = dataclasses.replace(pascal, data=nyud, tasks={task: pascal.tasks[task]}, placement=None)
        with pytest.raises(UserError, match=rf"tasks.{task}.*{words}"):
            config.validate()

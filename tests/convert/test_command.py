"""`python -m mtlora_jax.convert`: every subcommand does its work, and says in a line what it cannot."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from golden import DATA, SWIN, Case, compiled

from mtlora_jax.convert.__main__ import main
from mtlora_jax.convert.files import read_model
from mtlora_jax.convert.task_names import OURS, THEIRS, rename
from mtlora_jax.vision.swin_weights import load_backbone, load_weights
from mtlora_jax.weights import torch_pickle as pth
from mtlora_jax.weights import torch_pickle_write as pth_write
from mtlora_jax.weights.hub import read


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A reference checkpoint and its yaml, tasks and data set left to the command line as there."""
    folder, case = tmp_path_factory.mktemp("reference"), Case("no_fc1")
    pth_write.write(folder / "ckpt.pth", case.state_dict)
    config = {key: value for key, value in case.config.items() if key not in ("TASKS", "DATASET")}
    (folder / "x.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def converted(checkpoint):
    main(
        [
            "reference",
            str(checkpoint / "ckpt.pth"),
            str(out := checkpoint / "model.safetensors"),
            "--cfg",
            str(checkpoint / "x.yaml"),
        ]
    )
    return out


@pytest.mark.parametrize("file", ["swin_timm.safetensors", "swin_microsoft.pth", "swin_hugging_face.bin"])
def test_swin(file, tmp_path, capsys):
    main(["swin", str(DATA / file), str(out := tmp_path / "out.safetensors")])
    assert "dim 4, depths (1, 2, 1, 1), heads (1, 1, 2, 4), window 4" in capsys.readouterr().out
    ours, theirs = load_backbone(str(out), SWIN), load_backbone(str(DATA / file), SWIN)
    assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)


@pytest.mark.slow
def test_a_converted_reference_has_our_task_names_and_its_function(converted):
    case = Case("no_fc1")
    model, variables = read_model(converted)
    assert list(model.heads) == ["semseg", "saliency"]
    outputs = compiled(model.apply, variables, case.images)(variables, case.images)
    step = case.about["out_stride"]
    for task, x in outputs.items():
        ours = np.asarray(x)[:, ::step, ::step].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, case.expected[f"out:{THEIRS.get(task, task)}"], atol=1e-4)


def test_a_run_can_start_from_it(converted):
    model, _ = read_model(converted)
    leaves = load_weights(str(converted), model.backbone)
    assert {path.split("/")[0] for path in leaves} == {"params", "lora", "batch_stats"}
    assert leaves.keys() == read(converted)[0].keys()


def test_there_and_back_is_bit_identical(checkpoint, converted, tmp_path):
    main(["to-reference", str(converted), str(tmp_path / "back.pth")])
    theirs, (ours, _) = pth.read(checkpoint / "ckpt.pth")[0], pth.read(tmp_path / "back.pth")
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        same = x.astype(ours[name].dtype) if name.endswith("index") else x
        np.testing.assert_array_equal(ours[name], same, err_msg=name, strict=True)


@pytest.mark.slow
def test_merge_keeps_the_function(converted, tmp_path, capsys):
    main(["merge", str(converted), str(out := tmp_path / "folded.safetensors")])
    assert "16 of 24 adapters folded into kernels, 8 left" in capsys.readouterr().out
    images = Case("no_fc1").images
    outputs = [compiled(model.apply, v, images)(v, images) for model, v in map(read_model, (converted, out))]
    for task, x in outputs[0].items():
        np.testing.assert_allclose(x, outputs[1][task], atol=1e-4)


def test_renaming_inverts(converted):
    model, variables = read_model(converted)
    there = rename(model, variables, THEIRS)
    again, _ = rename(*there, OURS)
    assert again == model
    assert list(there[0].heads) == ["semseg", "sal"]
    assert there[1]["params"].keys() == {"backbone", "projections", "heads_semseg", "heads_sal"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["swin", "{data}/torch_zip.pth", "{out}.safetensors"], "is not a Swin checkpoint"),
        (["swin", "none.pth", "{out}.safetensors"], "there is no file none.pth"),
        (["swin", "{data}/swin_microsoft.pth", "{out}/none/x.safetensors"], "there is no directory"),
        (["reference", "{ckpt}/ckpt.pth", "{out}.safetensors"], "holds no config: give the yaml"),
        (["reference", "{ckpt}/ckpt.pth", "{out}.safetensors", "--cfg", "{ckpt}/none.yaml"], "cannot be read"),
        (
            ["reference", "{ckpt}/ckpt.pth", "{out}.safetensors", "--cfg", "{ckpt}/x.yaml", "--tasks", "semseg"],
            "has keys",
        ),
        (["to-reference", "{ckpt}/model.safetensors", "{out}.safetensors"], "the reference reads .pth files"),
        (["to-reference", "{data}/swin_timm.safetensors", "{out}.pth"], "holds no whole model"),
        (["to-reference", "{data}", "{out}.pth"], "holds no run"),
        (
            ["merge", "{ckpt}/model.safetensors", "{out}.safetensors", "--task", "saliency"],
            "two inputs, no single kernel",
        ),
        (
            ["merge", "{ckpt}/model.safetensors", "{out}.safetensors", "--task", "depth"],
            "the model has no task 'depth'",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, converted, tmp_path, capsys):
    places = {"data": DATA, "ckpt": converted.parent, "out": tmp_path / "out"}
    with pytest.raises(SystemExit) as exited:
        main([a.format(**places) for a in arguments])
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_door_opens():
    done = subprocess.run(
        [sys.executable, "-m", "mtlora_jax.convert", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("swin", "reference", "to-reference", "merge"))

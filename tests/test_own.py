"""Tasks, a data set and a method that live in a user's own recipe work wherever the package's own do."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import runner

OWN = Path(__file__).parent / "own"
MOST_LINES = 40

pytestmark = pytest.mark.slow


def sections(path: Path) -> dict[str, int]:
    """Lines of code below each heading `# --- ...`."""
    found, name = {}, ""
    for line in path.read_text().splitlines():
        if line.startswith("# --- "):
            name = line.removeprefix("# --- ")
        elif line.startswith("def get_config"):
            name = ""
        elif name and line.strip():
            found[name] = found.get(name, 0) + 1
    return found


def test_each_is_short():
    found = sections(OWN / "dense.py") | sections(OWN / "text.py")
    assert {"a class task", "a regression", "a data set", "an adapter method"} <= set(found)
    assert all(lines <= MOST_LINES for lines in found.values()), found
    for path in OWN.glob("*.py"):
        ast.parse(path.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command in a process of its own, so that nothing but files passes from one to the next."""
    return runner(tmp_path_factory.mktemp("xla"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of files with labels of both tasks, 16-bit png and npy."""
    root = tmp_path_factory.mktemp("own")
    for name in ("images", "materials", "flow"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    for split, count in {"train": 3, "val": 2}.items():
        names = [f"{split}{i}" for i in range(count)]
        (root / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(rng.integers(0, 255, (36, 44, 3), np.uint8)).save(root / "images" / f"{name}.png")
            materials = rng.integers(0, 300, (36, 44)).astype(np.uint16)
            materials[0, 0] = 65535
            Image.fromarray(materials).save(root / "materials" / f"{name}.png")
            np.save(root / "flow" / f"{name}.npy", rng.normal(size=(36, 44, 2)).astype(np.float32) * 300)
    return root


def test_own_tasks_and_data_train_evaluate_and_save_predictions(run, folder, tmp_path):
    workdir, root = tmp_path / "run", f"--data.sources.folder.root={folder}"
    run("train.py", "--config", OWN / "dense.py", "--workdir", workdir, root)
    results = json.loads((workdir / "results.json").read_text())
    assert {"mIoU", "loss"} <= set(results["last"]["metrics"]["materials"])
    assert np.isfinite(results["last"]["metrics"]["flow"]["mean_error"])
    # The weights that the tasks themselves state: nothing in the recipe names one.
    losses = {task: results["last"]["metrics"][task]["loss"] for task in ("materials", "flow", "total")}
    assert losses["total"] == pytest.approx(2.0 * losses["materials"] + 0.01 * losses["flow"], rel=1e-5)

    out = tmp_path / "predictions"
    run("eval.py", "--workdir", workdir, "--step", "best", "--protocol", "native", "--predictions", out)
    for name, shape in {"squares/0": (40, 48), "folder/val1": (36, 44)}.items():
        classes = np.asarray(Image.open(out / "materials" / f"{name}.png"))
        assert classes.shape == shape
        assert classes.dtype.itemsize >= 2, "300 classes do not fit 8 bits"
        assert classes.max() < 300
        flow = np.load(out / "flow" / f"{name}.npy")
        assert (flow.shape, flow.dtype) == ((*shape, 2), np.float32)

    found = run("-m", "mtlora_jax.data", "check", "--config", OWN / "dense.py", "--out", tmp_path / "check", root)
    assert "squares_train materials" in found
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    assert max(map(int, report["folder_train"]["materials"]["histogram"])) > 255
    assert 0 < report["folder_train"]["materials"]["void"] < 0.01
    assert report["squares_val"]["flow"]["void"] > 0.5
    assert (tmp_path / "check" / "folder_val.png").exists()


def test_an_own_method_trains_scores_and_merges(run, tmp_path):
    workdir = tmp_path / "run"
    run("train.py", "--config", OWN / "text.py", "--workdir", workdir)
    run("eval.py", "--workdir", workdir, "--protocol", "options", "--predictions", tmp_path / "predictions")
    assert (tmp_path / "predictions" / "boolq.jsonl").exists()
    told = run("-m", "mtlora_jax.convert", "merge", workdir, tmp_path / "merged")
    assert "14 projections" in told or "projections of 2 layers" in told
    assert (tmp_path / "merged" / "model.safetensors").exists()

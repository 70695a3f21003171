"""The doors in several processes: they end in the bits of one process with as many devices."""

import json
import sys

import pytest
from processes import Hosts
from test_doors import JOBS, leaves, records

FEW = ("--train.steps=2", "--train.eval_every=1", "--train.eval_batch_size=4")
RUNS = {
    "vision": (*JOBS["scenes"][1:], *FEW, "--data.val_length=6"),
    "text": (*JOBS["text"][1:], *FEW, "--init_from=microworld", "--mesh.fsdp=2", "--data.val_length=2"),
}
TWO_TASKS = """
from dataclasses import replace
from configs.scenes_smoke import get_config as parent

def get_config():
    config = parent()
    return replace(config, tasks={name: config.tasks[name] for name in ("semseg", "normals")})
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


def doors(count, cache, devices, script, *arguments):
    def command(_, launch):
        told = [f"--{name}={value}" for name, value in launch.items() if value is not None]
        return [sys.executable, script, *map(str, arguments), *told]

    return Hosts(count, command, cache, devices).end()


@pytest.mark.slow
@pytest.mark.parametrize("domain", RUNS)
def test_two_processes_are_one(domain, cache, tmp_path):
    two, one, recipe = tmp_path / "two", tmp_path / "one", JOBS["text"][0]
    if domain == "vision":
        recipe = tmp_path / "two_tasks.py"
        recipe.write_text(TWO_TASKS)
    codes, _, err = doors(2, cache, 1, "train.py", "--config", recipe, *RUNS[domain], "--workdir", two)
    assert codes == [0, 0], err
    codes, _, err = doors(1, cache, 2, "train.py", "--config", recipe, *RUNS[domain], "--workdir", one)
    assert codes == [0], err
    for a, b in zip(records(two), records(one), strict=True):
        assert {**a, "ids": None} == {**b, "ids": None}
    assert leaves(two, 2) == leaves(one, 2)
    last = [json.loads((workdir / "results.json").read_text())["last"] for workdir in (two, one)]
    assert last[0] == last[1]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    if domain == "vision":
        codes, _, err = doors(2, cache, 1, "eval.py", "--workdir", two)
        assert codes == [0, 0], err
        assert json.loads((two / "evaluation.json").read_text())["metrics"] == last[0]["metrics"]
    protocol = {"vision": "native", "text": "generate"}[domain]
    for count, devices, workdir in ((2, 1, two), (1, 2, one)):
        scored = ("--protocol", protocol, "--predictions", workdir / "predictions")
        codes, _, err = doors(count, cache, devices, "eval.py", "--workdir", workdir, *scored)
        assert codes == [0] * count, err
    said, files = [], []
    for workdir in (two, one):
        said.append(json.loads((workdir / f"evaluation_{protocol}.json").read_text()))
        folder = workdir / "predictions"
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert said[0] == said[1]
    assert files[0] == files[1]
    assert files[0]

"""Who a work directory belongs to: nobody before its first checkpoint, then one config; to one process at a time."""

import json
import subprocess
import sys
from dataclasses import replace

import line
import pytest

from mtlora_jax.config import Optim, Train, to_json
from mtlora_jax.engine.claim import claimed, locked
from mtlora_jax.engine.loop import train
from mtlora_jax.errors import UserError

CONFIG = line.LineConfig()
SECOND = """
import pathlib, sys
from mtlora_jax.engine.claim import locked
with locked(pathlib.Path(sys.argv[1])):
    pass
"""


def run(config, workdir):
    return train(config, line.make_workload(config), workdir)


def broken(folder, *numbers):
    folder.mkdir(exist_ok=True)
    (folder / "broken").write_text(" ".join(map(str, numbers)))
    return replace(CONFIG, data=line.LineData(str(folder)))


def test_a_run_that_was_never_saved_claims_nothing(tmp_path):
    workdir = tmp_path / "w"
    with pytest.raises(UserError, match="nothing has been saved yet"):
        run(broken(tmp_path / "data", *range(64)), workdir)
    assert not (workdir / "config.json").exists()
    # Its step-0 figures are not those of the run that comes after it.
    other = replace(CONFIG, seed=3, optim=Optim(lr=0.5))
    results = run(other, workdir)
    assert json.loads((workdir / "config.json").read_text()) == to_json(other)
    records = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "eval"] == [0, 3]
    assert results["initial"]["step"] == 0


def test_a_saved_run_keeps_its_directory_and_may_move_its_data(tmp_path):
    workdir = tmp_path / "w"
    run(CONFIG, workdir)
    with pytest.raises(UserError, match=r"holds a run of another config: seed was 0, now 1; choose another --workdir"):
        run(replace(CONFIG, seed=1), workdir)
    moved = replace(CONFIG, data=line.LineData(str(tmp_path)), train=replace(CONFIG.train, steps=5))
    assert run(moved, workdir)["last"]["step"] == 5


@pytest.mark.parametrize("name", ["base.safetensors", "results.json", "checkpoints"])
def test_things_of_others_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name} without the config.json of a run"):
        run(CONFIG, tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_model_folder_is_no_work_directory(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"config\.json is not that of a run"):
        run(CONFIG, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "llama"}


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path):
    with locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", SECOND, str(tmp_path)], capture_output=True, text=True)
        assert second.returncode
        assert "is in use by process" in second.stderr.splitlines()[-1]
        with pytest.raises(UserError, match=r"is in use by process \d+ on .* since"), locked(tmp_path):
            pass
    # The file stays; what counts is whether somebody holds it.
    assert (tmp_path / ".lock").exists()
    run(CONFIG, tmp_path)


def test_a_finished_run_without_checkpoints_is_still_reported(tmp_path, capsys):
    import shutil

    results = run(CONFIG, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    assert run(CONFIG, tmp_path) == results
    assert "last (3)" in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the workdir"), claimed(tmp_path / "file" / "w", CONFIG):
        pass


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    run(CONFIG, tmp_path)
    with pytest.raises(UserError, match="has done 3 steps already: give more"):
        run(replace(CONFIG, train=Train(steps=2, batch_size=8, workers=0)), tmp_path)

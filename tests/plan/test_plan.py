"""Plans for TPUs that are not there: what is said of a small step, and which slice a search takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_text import CONFIG

from mtlora_jax.config import Mesh
from mtlora_jax.plan import __main__ as door
from mtlora_jax.plan import step
from mtlora_jax.plan.chips import CHIPS, chip_of, chips_of
from mtlora_jax.plan.step import Plan

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mtlora_jax.plan", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_small_step_is_planned_for_a_slice(tmp_path):
    done = run(
        *("--config", "configs/text_smoke.py", "--topology", "v5e:2x2", "--json", tmp_path / "plan.json"),
        *("--mesh.data=1", "--mesh.fsdp=4", "--model.hidden=64", "--train.batch_size=2048"),
    )
    assert done.returncode == 0, done.stderr
    assert "text_smoke on v5e:2x2: 4 chips, data=1 fsdp=4 tensor=1. Planned: compiled, and not run." in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["planned"]
    assert found["fits"]
    assert found["needed"] == sum(found["memory"].values()) < found["available"]
    # 2 layers: their products forward and backward of 2,048 rows of 256 tokens, at the least, on four chips.
    assert found["flops"] > 4 * 2 * (3 * 64 * 64 + 3 * 64 * 64) * 2048 * 256 / 4
    assert {c["axes"] for c in found["collectives"]} == {"fsdp"}
    # Weights are gathered where they are used, each once forward and once backward, the head's not for every chunk of
    # the loss; activations stay where their examples are. With this many rows the compiler would send parts of what it
    # gathers by itself round in a ring, and read the activations anew with each.
    sent = {c["kind"]: c["sent"] for c in found["collectives"]}
    assert "collective-permute" not in sent
    assert sent.get("all-reduce", 0.0) < sent["all-gather"] < 2 * 4 * found["memory"]["frozen"]
    assert set(found["seconds"]) == {"compute", "hbm", "network"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "configs/text_smoke.py"), "--topology is missing"),
        (("--topology", "v5e:2x2"), "--config is missing"),
        (("--config", "configs/text_smoke.py", "--topology", "v9:2x2"), "give a generation, v5e, v5p"),
        (("--config", "configs/text_smoke.py", "--topology", "v5e:2by2"), "sizes with x between them"),
        (("--config", "configs/text_smoke.py", "--topology", "v5e:2x2", "--base_dtype=int3"), "--base_dtype must be"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as stopped:
        door.main(list(arguments))
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_search_stops_at_the_first_slice_that_fits(monkeypatch):
    def planned(config, topology, base_dtype):
        chips = chips_of(topology)
        mesh = vars(config.mesh)
        fits = mesh["fsdp"] >= 8
        seconds = {"compute": 1 / chips, "hbm": 0.0, "network": 0.01 * mesh["tensor"]} if fits else None
        return Plan("c", topology, chips, mesh, 100, {"frozen": 1.0}, 1.0, 2.0, 1.0, seconds=seconds)

    monkeypatch.setattr(step, "plan", planned)
    found = door.search(replace(CONFIG, train=replace(CONFIG.train, batch_size=64)), "v5e", None)
    assert found[-1].topology == "v5e:2x4"
    fitting = [p.mesh for p in found if p.fits]
    assert fitting == [{"data": 1, "fsdp": 8, "tensor": 1}]
    assert "2x2" in door.table(found)
    assert "does not fit" in door.described(found[0])


def test_meshes_divide_chips_and_batch():
    config = replace(CONFIG, train=replace(CONFIG.train, batch_size=16, accumulate=2))
    found = list(door.meshes(8, config))
    assert Mesh(data=8, fsdp=1, tensor=1) in found
    assert Mesh(data=1, fsdp=2, tensor=4) in found
    assert all(m.data * m.fsdp * m.tensor == 8 and 8 % (m.data * m.fsdp) == 0 for m in found)


def test_every_slice_has_whole_hosts():
    for name, chip in CHIPS.items():
        assert chip_of(f"{name}:{chip.slices[0]}")[1] is chip
        counts = [chips_of(f"{name}:{sizes}") for sizes in chip.slices]
        assert counts == sorted(counts)
        assert all(count % 4 == 0 for count in counts)

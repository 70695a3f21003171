"""How long steps take, what they wait for, and stacks of one that hangs."""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import line
import pytest

from mtlora_jax.config import Mesh, Train
from mtlora_jax.engine import flops
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.pace import Pace, traced_steps
from mtlora_jax.errors import UserError

HANGS = """
import time
from mtlora_jax.engine.pace import Pace

def never_ends():
    time.sleep(1)

with Pace(0.1 / 60) as pace:
    for _ in pace.steps([0]):
        never_ends()
"""


def slow(count, seconds):
    for i in range(count):
        time.sleep(seconds)
        yield i


def test_waiting_is_what_a_batch_takes():
    with Pace(0) as pace:
        for _ in pace.steps(slow(4, 0.03)):
            time.sleep(0.01)
        found = pace.health()
        assert set(found) == {"seconds", "waiting"}
        assert found["seconds"] >= 0.04
        assert found["waiting"] > 0.5
        # Forgotten, it is of the steps that come.
        for _ in pace.steps(range(4)):
            time.sleep(0.02)
        assert pace.health()["waiting"] < 0.5


def test_a_step_that_hangs_shows_where():
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True)
    assert done.returncode == 0
    assert "never_ends" in done.stderr


def test_a_run_tells_its_share_of_what_its_devices_can_do(tmp_path, monkeypatch):
    monkeypatch.setitem(flops.RATES, "cpu", 1e6)
    monkeypatch.setattr(flops, "macs", lambda step, *arguments: 500)  # the line's step multiplies no matrices
    config = line.LineConfig(train=Train(steps=4, batch_size=8, workers=0, log_every=1))
    train(config, line.make_workload(config), tmp_path)
    records = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    health = [record for record in records if record["kind"] == "health"]
    counted = [record["mfu"] * record["seconds"] * 1e6 * jax.device_count() for record in health]
    assert counted == pytest.approx([1000.0] * 3)


def test_work_is_counted_by_the_shape_of_batches(monkeypatch):
    mesh, weights = make_mesh(Mesh(data=1), jax.devices()[:1]), jnp.ones((5, 7))
    step = jax.jit(lambda state, frozen, batch: batch @ state)
    assert flops.Work(step, mesh)(weights, {}, jnp.ones((3, 5))) == 0
    monkeypatch.setitem(flops.RATES, "cpu", 1e6)
    work = flops.Work(step, mesh)
    for rows in (3, 4, 3):
        assert work(weights, {}, jnp.ones((rows, 5))) == 2 * rows * 5 * 7


def test_rates_are_found_by_what_a_kind_begins_with():
    assert flops.rate_of("TPU v5 lite") < flops.rate_of("TPU v5") == flops.rate_of("TPU v5p")
    assert flops.rate_of("NVIDIA H100 80GB HBM3") == 989e12
    assert flops.rate_of("cpu") == 0


def test_a_run_tells_its_health_and_traces_steps(tmp_path, capsys):
    config = line.LineConfig(train=Train(steps=6, batch_size=8, workers=0, log_every=2))
    train(config, line.make_workload(config), tmp_path, profile=(3, 2))
    records = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "health"] == [2, 4, 6]
    assert all(r["seconds"] > 0 for r in records if r["kind"] == "health")
    assert f"wrote a trace of 2 steps to {tmp_path / 'profile'}" in capsys.readouterr().err
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(UserError, match="step 7 never comes, the run ends after 6"):
        train(config, line.make_workload(config), tmp_path, profile=(7, 1))


@pytest.mark.parametrize("text", ["3", "0:2", "3:0", "a:b", ":", "3:-1"])
def test_steps_that_cannot_be_traced(text):
    assert traced_steps(None) is None
    assert traced_steps("3:2") == (3, 2)
    with pytest.raises(UserError, match="such as --profile=10:3"):
        traced_steps(text)

"""Several processes as one run, over the loopback: the same bits, one end for all (I5, I6, I10)."""

import json
import signal
import sys
import time
from pathlib import Path

import line
import numpy as np
import pytest
from processes import Hosts

from mtlora_jax.engine.claim import locked
from mtlora_jax.engine.launch import FLAGS, VARIABLES, Launch, launch_of
from mtlora_jax.errors import UserError

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture
def lines(cache):
    """Starts processes of a run of `line`."""

    def start(count: int, workdir: Path | list[Path], devices: int = 1, **told) -> Hosts:
        def command(i: int, launch: dict) -> list[str]:
            own = workdir[i] if isinstance(workdir, list) else workdir
            all_told = {"launch": launch, "workdir": str(own), "train": {"steps": 6}, **told}
            return [sys.executable, str(TESTS / "host.py"), json.dumps(all_told)]

        return Hosts(count, command, cache, devices)

    return start


def records(workdir: Path) -> list[dict]:
    """What a run logged of losses and metrics, but for the ids: each process knows its own."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in r.items() if name != "ids"} for r in found if r["kind"] != "health"]


def leaves(workdir: Path) -> dict:
    """The digests of the newest checkpoint's leaves."""
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    return json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["leaves"]


def example(row: int, step: int = 0) -> int:
    """The id of one of the examples that a step, counted from 0, trains on."""
    batches = line.make_workload(line.LineConfig()).train_batches(8)
    return int(batches.batch(0, step, [row])["id"][0])


def wait_for(workdir: Path, step: int) -> None:
    """Until a step's checkpoint is there."""
    for _ in range(600):
        if (workdir / "checkpoints" / str(step)).is_dir():
            return
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint {step}")


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_end_where_one_does(lines, tmp_path, count):
    train = {"steps": 6, "eval_every": 3, "eval_batch_size": 12}  # of 64 examples, which it does not divide
    codes, out, err = lines(count, tmp_path / "many", train=train).end()
    assert codes == [0] * count, err
    assert lines(1, tmp_path / "one", devices=count, train=train).end()[0] == [0]
    many, one = records(tmp_path / "many"), records(tmp_path / "one")
    assert [list(r) for r in many] == [list(r) for r in one]
    if count == 2:  # of more terms a sum depends on their order, which is the transport's
        assert many == one
        assert leaves(tmp_path / "many") == leaves(tmp_path / "one")
    for a, b in zip(many, one, strict=True):
        numbers = [name for name in a if name != "kind"]
        np.testing.assert_allclose([a[name] for name in numbers], [b[name] for name in numbers], rtol=1e-5)
    assert "last (6)" in out[0]
    assert all(line.startswith("[Gloo]") for of in out[1:] for line in of.splitlines())
    assert f"{count} processes, {count} devices" in err[0]


def test_a_file_that_one_cannot_read_ends_all_with_its_line(lines, tmp_path):
    folder, workdir = tmp_path / "data", tmp_path / "w"
    folder.mkdir()
    (folder / "broken").write_text(str(example(row=5, step=3)))
    started = time.monotonic()
    codes, _, err = lines(2, workdir, root=str(folder), train={"steps": 6, "checkpoint_every": 1}).end()
    assert codes == [2, 2], err
    for of in err:
        assert "error: process 1: step 4: " in of
        assert "cannot be decoded; fetch it again" in of
        assert "Traceback" not in of
    assert time.monotonic() - started < 60
    # Mended, the same command goes on from the last checkpoint.
    (folder / "broken").unlink()
    codes, _, err = lines(2, workdir, root=str(folder), train={"steps": 6, "checkpoint_every": 1}).end()
    assert codes == [0, 0], err
    assert "resumed at step" in err[0]


def test_a_loss_that_is_not_finite_names_the_examples_of_all(lines, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nan").write_text(str(example(row=5)))  # which process 1 reads, and not process 0
    codes, _, err = lines(2, tmp_path / "w", root=str(tmp_path / "data")).end()
    assert codes == [2, 2], err
    said = next(of for of in err[0].splitlines() if of.startswith("error:"))
    assert "step 1: the loss of line is not finite: labels of line hold numbers that are not" in said
    ids = json.loads(said[said.index("[") : said.index("]") + 1])
    assert len(ids) == 8
    assert example(row=5) in ids


def test_a_signal_to_one_saves_and_stops_all_at_the_same_step(lines, tmp_path):
    workdir, long = tmp_path / "w", {"steps": 400, "checkpoint_every": 20}
    hosts = lines(2, workdir, train=long)
    wait_for(workdir, 20)
    hosts.processes[1].send_signal(signal.SIGTERM)
    codes, _, err = hosts.end()
    assert codes == [128 + signal.SIGTERM] * 2, err
    assert all("stopped and saved at step" in of for of in err)
    # It goes on with another number of processes and ends as if nothing had been.
    codes, _, err = lines(4, workdir, train=long).end()
    assert codes == [0] * 4, err
    assert lines(1, tmp_path / "whole", devices=2, train=long).end()[0] == [0]
    found, whole = records(workdir), records(tmp_path / "whole")
    assert [r["step"] for r in found] == [r["step"] for r in whole]
    np.testing.assert_allclose(found[-1]["line/error"], whole[-1]["line/error"], rtol=1e-5)


def test_a_directory_in_use_or_not_shared_is_refused_on_all(lines, tmp_path):
    long = {"steps": 400, "checkpoint_every": 20}
    hosts = lines(2, tmp_path / "w", train=long)
    wait_for(tmp_path / "w", 20)
    codes, _, err = lines(2, tmp_path / "w", train=long).end()
    assert codes == [2, 2], err
    assert all("is in use by process" in of for of in err)
    # The holder ends when one of its processes is killed, and holds nothing then.
    hosts.processes[1].send_signal(signal.SIGKILL)
    codes, _, err = hosts.end()
    assert codes == [2, -signal.SIGKILL], err
    assert err[0].splitlines()[-1] == "error: process 0: another process is gone; the same command resumes"
    assert "Traceback" not in err[0]
    with locked(tmp_path / "w"):
        pass
    codes, _, err = lines(2, [tmp_path / "a", tmp_path / "b"]).end()
    assert codes == [2, 2], err
    assert all("process 1 does not see what process 0 wrote" in of for of in err)


def test_a_damaged_checkpoint_sends_all_back_to_the_one_before(lines, tmp_path):
    train = {"steps": 4, "checkpoint_every": 2}
    assert lines(2, tmp_path, train=train).end()[0] == [0, 0]
    newest = tmp_path / "checkpoints" / "4" / "trainable"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 50:
            path.write_bytes(path.read_bytes()[:40])
    codes, _, err = lines(2, tmp_path, train={**train, "steps": 6}).end()
    assert codes == [0, 0], err
    assert "checkpoint 4 is damaged" in err[0]
    assert "resumed at step 2" in err[0]
    assert (tmp_path / "checkpoints" / "4.damaged").is_dir()


# --- how processes find each other

NOTHING = dict.fromkeys(FLAGS)


def test_a_process_alone_joins_nobody():
    assert launch_of(NOTHING, {}) is None
    assert launch_of(NOTHING, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}) is None  # in a batch script, outside of srun
    assert launch_of(NOTHING, {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}) is None
    assert launch_of(NOTHING, {"TPU_WORKER_HOSTNAMES": "localhost"}, on_tpu=True) is None


@pytest.mark.parametrize(
    ("environ", "on_tpu", "where"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, False, "SLURM"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, True, "GKE"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True, "GKE"),
        ({}, True, "Cloud TPU"),
    ],
)
def test_clusters_tell_by_themselves(environ, on_tpu, where):
    assert launch_of(NOTHING, environ, on_tpu) == Launch(None, None, None, where)


def test_flags_and_variables_say_the_same():
    told = dict(zip(FLAGS, ("h:1234", "4", "3"), strict=True))
    assert launch_of(told, {}) == Launch("h:1234", 4, 3, "--coordinator")
    environ = {VARIABLES[name]: value for name, value in told.items()}
    assert launch_of(NOTHING, environ) == Launch("h:1234", 4, 3, "JAX_COORDINATOR_ADDRESS")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("h:1", None, "0"), "--processes missing"),
        (("h:1", "2", None), "--process missing"),
        (("h:1", "two", "0"), "--processes must be a number"),
        (("h:1", "2", "2"), "--process must lie between 0 and 1"),
        (("h", "2", "1"), "--coordinator must be HOST:PORT"),
    ],
)
def test_half_of_a_launch_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        launch_of(dict(zip(FLAGS, values, strict=True)), {})

"""Work directories, and what commands leave, in a store that has no rename, no append and no lock."""

import json
import os
import tempfile
import threading
import time
from dataclasses import replace

import pytest
from small_text import CONFIG
from stores import BUCKET, another_machine, put
from test_doors import JOBS
from test_pods import doors

from mtlora_jax import mirrors
from mtlora_jax.convert.__main__ import main as convert
from mtlora_jax.engine import lease
from mtlora_jax.engine.claim import claimed
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import open_run
from mtlora_jax.errors import UserError
from mtlora_jax.mirrors import Note, opened
from mtlora_jax.report import evaluated, scores
from mtlora_jax.text.workload import make_workload
from mtlora_jax.weights.hub import shipped

pytestmark = pytest.mark.slow


def records(workdir, kind):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "time"} for line in lines if line["kind"] == kind]


def longer(steps):
    settings = replace(CONFIG.train, steps=steps, checkpoint_every=1, log_every=1)
    return replace(CONFIG, optim=replace(CONFIG.optim, steps=4), train=settings)


def test_a_run_in_a_store_is_a_run_and_goes_on_on_another_machine(store, tmp_path, capsys):
    straight = train(longer(4), make_workload(longer(4)), tmp_path / "here")
    url = f"{BUCKET}/runs/a"
    train(longer(2), make_workload(longer(2)), url)
    assert not any(name.endswith(".lock") for name in store.names())
    another_machine()
    results = train(longer(4), make_workload(longer(4)), url)
    assert results["last"] == straight["last"]
    another_machine()
    assert records(opened(url), "train") == records(tmp_path / "here", "train")
    assert [line["step"] for line in records(opened(url), "eval")] == [0, 2, 4]
    there = {name.removeprefix("bucket/runs/a/").partition("/")[0] for name in store.names("bucket/runs/a")}
    assert there == {p.name for p in (tmp_path / "here").iterdir() if not p.name.startswith(".")}
    with pytest.raises(UserError, match="holds a run of another config"):
        train(replace(longer(4), seed=1), make_workload(longer(4)), url)

    # evaluated, and started from
    another_machine()
    metrics = open_run(url).evaluate("best")
    assert metrics == straight["best"]["metrics"]
    mirrors.close()
    assert json.loads(store.objects["bucket", "runs/a/evaluation.json"].data)["metrics"] == metrics
    child = replace(longer(1), init_from=f"{url}@4", tokenizer=CONFIG.tokenizer)
    at_step_0 = train(child, make_workload(child), tmp_path / "child")["initial"]["metrics"]
    assert at_step_0 == straight["last"]["metrics"]

    # reported, under its own name and never that of the folder that stands for it here
    assert scores(url) == scores(tmp_path / "here")
    with pytest.raises(
        UserError, match=rf"^there is no {url}/evaluation_generate.json: python eval.py --workdir {url} "
    ):
        evaluated(url, "generate")
    with pytest.raises(UserError, match=rf"^{url} holds no checkpoint '7': "):
        open_run(url).step("7")
    with pytest.raises(UserError, match=rf"^{url} has done 4 steps already: "):
        train(replace(longer(2), optim=longer(4).optim), make_workload(longer(2)), url)
    said = "".join(capsys.readouterr())
    assert f"wrote {url}/evaluation.json" in said
    assert tempfile.gettempdir() + "/mtlora_jax-" not in said


def test_what_commands_write_may_go_to_a_store(store, tmp_path, capsys):
    run, url = tmp_path / "run", f"{BUCKET}/models/merged"
    train(longer(1), make_workload(longer(1)), run)

    def merge(out, *more):
        convert(["merge", str(run), str(out), "--task", "boolq", *more])

    merge(tmp_path / "merged")
    merge(url)
    assert f"wrote {url}" in capsys.readouterr().out
    for path in (tmp_path / "merged").iterdir():
        assert store.objects["bucket", f"models/merged/{path.name}"].data == path.read_bytes()
    another_machine()
    with pytest.raises(SystemExit, match="2"):
        merge(url)
    assert "is there already: write somewhere else, or replace it with --overwrite" in capsys.readouterr().err
    merge(url, "--overwrite")
    with pytest.raises(SystemExit, match="2"):
        convert(["merge", f"{url}/model.safetensors", url, "--overwrite"])
    assert "is, or holds, the base" in capsys.readouterr().err

    # in a folder called as that of a run's checkpoints
    (mirrors.outgoing(f"{BUCKET}/checkpoints/said") / "a").parent.mkdir(parents=True)
    (mirrors.outgoing(f"{BUCKET}/checkpoints/said") / "a").write_text("b")
    (mirrors.outgoing(f"{BUCKET}/checkpoints") / "3").mkdir(parents=True)
    (mirrors.outgoing(f"{BUCKET}/checkpoints") / "3" / "a").write_text("c")
    mirrors.close()
    assert store.names("bucket/checkpoints") == ["bucket/checkpoints/3/a", "bucket/checkpoints/said/a"]

    # below a work directory that is in the store too
    put(store, run, "run")
    predictions = mirrors.outgoing(f"{BUCKET}/run/said")
    open_run(f"{BUCKET}/run").evaluate("last", "generate", predictions)
    assert f"predictions to {BUCKET}/run/said" in capsys.readouterr().out
    mirrors.close()
    assert store.names("bucket/run/said")


def test_a_damaged_checkpoint_is_put_aside(store):
    url = f"{BUCKET}/runs/damaged"
    train(longer(2), make_workload(longer(2)), url)
    at = "bucket", "runs/damaged/checkpoints/2/meta/metadata"
    store.put(at, store.objects[at].data[:-20])
    another_machine()
    train(longer(3), make_workload(longer(3)), url)
    names = store.names("bucket/runs/damaged/checkpoints/")
    assert any("/2.damaged/" in name for name in names)
    assert any("/3/" in name for name in names)


@pytest.fixture
def no_orbax(monkeypatch):
    """A store that orbax does not write to, as it does not to s3:// and az://."""
    monkeypatch.setattr(mirrors, "BY_ORBAX", ())


def test_checkpoints_are_sent_where_orbax_does_not_write_them(store, no_orbax, tmp_path, capsys, monkeypatch):
    url, prefix = f"{BUCKET}/runs/s", "bucket/runs/s/checkpoints/"
    straight = train(longer(4), make_workload(longer(4)), tmp_path / "here")

    def there():
        return sorted({name.removeprefix(prefix).partition("/")[0] for name in store.names(prefix)})

    train(longer(3), make_workload(longer(3)), url)
    kept = sorted(path.name for path in (tmp_path / "here/checkpoints").iterdir())
    assert there() == ["2", "2.whole", "3", "3.whole"]
    another_machine()
    assert train(longer(4), make_workload(longer(4)), url)["last"] == straight["last"]
    assert f"resumed at step 3 from {url}/checkpoints/3: " in capsys.readouterr().err
    assert there() == sorted([*kept, *(f"{step}.whole" for step in kept)])
    sent = {p.relative_to(tmp_path / "here").parts[:2] for p in (tmp_path / "here").rglob("checkpoints/*/*")}
    assert {tuple(name.split("/")[3:5]) for name in store.names(prefix)} >= sent
    another_machine()
    assert open_run(url).evaluate("best") == straight["best"]["metrics"]

    # what was not sent to its last byte is not one; what is damaged is put aside
    another_machine()
    del store.objects["bucket", "runs/s/checkpoints/4.whole"]
    at = "bucket", "runs/s/checkpoints/3/meta/metadata"
    assert open_run(url).step() == 3
    another_machine()
    store.put(("bucket", "runs/s/checkpoints/4.whole"), b"")
    store.put(("bucket", "runs/s/checkpoints/4/meta/metadata"), store.objects[at].data[:-20])
    train(longer(5), make_workload(longer(5)), url)
    said = capsys.readouterr().err
    assert "checkpoint 4 is damaged" in said
    assert f"resumed at step 3 from {url}/checkpoints/3: " in said
    assert {"4.damaged", "4.damaged.whole", "5", "5.whole"} <= {*there()}

    monkeypatch.setattr(mirrors, "are_several", lambda: True)
    another_machine()
    with pytest.raises(UserError, match=rf"^{url}: checkpoints of several processes are written to .* a folder that"):
        opened(url)


def test_two_processes_share_a_store_and_read_their_parts_of_the_base_there(store, tmp_path):
    put(store, shipped("microworld"), "base")
    url, steps = f"{BUCKET}/runs/two", ("--train.steps=2", "--train.eval_batch_size=4", "--data.val_length=2")
    steps += (f"--init_from={BUCKET}/base", "--mesh.fsdp=2")
    for seed, expected in (("0", [0, 0]), ("1", [2, 2])):
        arguments = ("--config", *JOBS["text"], *steps, f"--seed={seed}", "--workdir", url)
        codes, _, err = doors(2, tmp_path / "xla", 1, "train.py", *arguments)
        assert codes == expected, err
    assert all("seed was 0, now 1" in line for line in err)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not [name for name in store.names() if name.endswith((".lock", ".failure"))]
    results = json.loads(store.objects["bucket", "runs/two/results.json"].data)
    run = open_run(url)
    with pytest.raises(UserError, match=r"^train.eval_batch_size = 4 does not divide over 8 devices; try 8$"):
        run.evaluate()
    eight = run.changed(replace(run.config, train=replace(run.config.train, eval_batch_size=8)))
    # this process has the base fetched whole, and knows it again by its fingerprint
    assert eight.evaluate()["total"] == pytest.approx(results["last"]["metrics"]["total"], rel=1e-5)


def test_a_living_run_is_not_disturbed_and_a_dead_one_is_followed(store):
    url, lock = f"{BUCKET}/runs/locked", ("bucket", "runs/locked/.lock")
    first = opened(url)
    with claimed(first, CONFIG):
        another_machine()
        with (
            pytest.raises(UserError, match=rf"{url}/.lock is held by process {os.getpid()} on .*; wait for it"),
            claimed(opened(url), CONFIG),
        ):
            pass
        assert lock in store.objects
    assert lock not in store.objects
    store.put(lock, b"process 1 on another, 00, beat 7")  # its holder was killed
    begun = time.monotonic()
    with claimed(opened(url), CONFIG):
        assert time.monotonic() - begun > lease.BEATS * lease.BEAT
        assert store.objects[lock].data.decode().startswith(f"process {os.getpid()}")


def test_of_two_that_come_at_once_one_has_it(store):
    note, outcomes = Note(opened(f"{BUCKET}/runs/two") / ".lock"), []

    def take(name):
        try:
            with lease.leased(note, name):
                outcomes.append("held")
                time.sleep(1.0)
        except UserError:
            outcomes.append("refused")

    threads = [threading.Thread(target=take, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]

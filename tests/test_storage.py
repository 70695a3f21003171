"""Work directories, data and weights in a store that has no rename, no append and no lock."""

import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from gcs import Server
from small_text import CONFIG, write_base
from test_doors import JOBS
from test_pods import doors

from mtlora_jax import storage
from mtlora_jax.convert.__main__ import main as convert
from mtlora_jax.engine import lease
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.claim import claimed
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import open_run
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.predict import photos_of
from mtlora_jax.report import evaluated, scores
from mtlora_jax.storage import Note, fetched, home, opened
from mtlora_jax.testing.text_layouts import write_commonsense
from mtlora_jax.text.config import CommonsenseData
from mtlora_jax.text.llama_weights import open_llama
from mtlora_jax.text.source import source_of
from mtlora_jax.text.workload import make_workload
from mtlora_jax.weights import ranged
from mtlora_jax.weights.hub import locate_folder, shipped

pytestmark = pytest.mark.slow
BUCKET = "gs://bucket"


@pytest.fixture(scope="module")
def server():
    with Server() as found, pytest.MonkeyPatch.context() as patched:
        for name, value in found.environment.items():
            patched.setenv(name, value)
        yield found


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """An empty store, and a machine that has fetched nothing of it."""
    server.objects.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "BEAT", 0.2)
    another_machine()
    yield server
    another_machine()
    assert not list(Path().glob("*:")), "a store's path was taken for one of this machine"


def another_machine():
    """Forgets what this process knows of stores."""
    storage._MIRRORS.clear()
    storage._fetched.cache_clear()
    storage._LEFT.clear()
    ranged._header.cache_clear()


def put(store, folder, name):
    """Has a folder lie in a store."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            store.put(("bucket", f"{name}/{path.relative_to(folder).as_posix()}"), path.read_bytes())


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
    storage.close()
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

    # below a work directory that is in the store too
    put(store, run, "run")
    predictions = storage.outgoing(f"{BUCKET}/run/said")
    open_run(f"{BUCKET}/run").evaluate("last", "generate", predictions)
    assert f"predictions to {BUCKET}/run/said" in capsys.readouterr().out
    storage.close()
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


def test_weights_tokenizer_and_data_are_fetched_once_and_again_when_they_change(store, tmp_path, capsys):
    put(store, write_base(tmp_path / "base"), "base")
    put(store, write_commonsense(tmp_path / "data"), "data")
    source = source_of(f"{BUCKET}/base")
    assert source.spec == source_of(str(tmp_path / "base")).spec
    ours, theirs = (
        np.asarray(of.leaves("", "none")["params/norm/scale"]) for of in (source, source_of(str(tmp_path / "base")))
    )
    np.testing.assert_array_equal(ours, theirs)
    assert load_tokenizer(f"{BUCKET}/base/tokenizer.json").encode("the lamp") == load_tokenizer(
        tmp_path / "base"
    ).encode("the lamp")
    data = CommonsenseData(root=f"{BUCKET}/data")
    assert data.rows("train", ("boolq",)) == replace(data, root=str(tmp_path / "data")).rows("train", ("boolq",))
    capsys.readouterr()
    another_machine()
    fetched(f"{BUCKET}/data")
    assert capsys.readouterr().err == ""
    store.put(("bucket", "data/boolq/train.json"), store.objects["bucket", "data/boolq/test.json"].data)
    del store.objects["bucket", "data/piqa/train.json"]
    another_machine()
    folder = fetched(f"{BUCKET}/data/")
    assert "fetched 1 of " in capsys.readouterr().err
    assert (folder / "boolq/train.json").read_bytes() == (tmp_path / "data/boolq/test.json").read_bytes()
    assert not (folder / "piqa/train.json").exists()


def test_photos_may_lie_in_a_store(store):
    for name in ("a.png", "b.jpg", "c.txt"):
        store.put(("bucket", f"photos/{name}"), name.encode())
    assert [path.read_text() for path in photos_of([f"{BUCKET}/photos"])] == ["a.png", "b.jpg"]
    assert [path.read_text() for path in photos_of([f"{BUCKET}/photos/b.jpg"])] == ["b.jpg"]
    with pytest.raises(UserError, match=rf"^there is nothing at {BUCKET}/photos/d.png$"):
        photos_of([f"{BUCKET}/photos/d.png"])


def test_what_was_fetched_before_a_failure_is_kept_and_names_stay_below_their_folder(store, monkeypatch, capsys):
    for name in "abc":
        store.put(("bucket", f"some/{name}"), name.encode())
    fs = fsspec.filesystem("gs")
    get = fs.get_file

    def get_but_b(source, target):
        if source.endswith("/b"):
            raise ConnectionError("gone")
        get(source, target)

    monkeypatch.setattr(storage, "THREADS", 1)
    with monkeypatch.context() as broken:
        broken.setattr(fs, "get_file", get_but_b)
        with pytest.raises(UserError, match=rf"^{BUCKET}/some cannot be used: ConnectionError: gone$"):
            fetched(f"{BUCKET}/some")
    capsys.readouterr()
    folder = fetched(f"{BUCKET}/some")
    assert "fetched 3 of 3" not in capsys.readouterr().err
    assert [path.read_text() for path in sorted(folder.glob("[abc]"))] == ["a", "b", "c"]
    store.put(("bucket", "some/../../x"), b"")
    another_machine()
    with pytest.raises(UserError, match=r"elsewhere on this machine"):
        fetched(f"{BUCKET}/some")


def test_weights_that_a_disk_has_no_room_for_stay_in_the_store(store, tmp_path, monkeypatch, capsys):
    folder = write_base(tmp_path / "base")
    put(store, folder, "base")
    size = (folder / "model.safetensors").stat().st_size
    room = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=size - 1))
    _, there = open_llama(locate_folder(f"{BUCKET}/base"))
    assert f"1 of 4 files of {BUCKET}/base stay there (0.0 GB): parts are read" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    _, here = open_llama(folder)
    for path in here:
        np.testing.assert_array_equal(there[path], here[path], strict=True)
        index = (slice(1, 2), *(slice(0, n) for n in here.shape(path)[1:]))
        np.testing.assert_array_equal(there.part(path, index), here[path][1:2], strict=True)
    # with room they are fetched, and what was fetched and has changed does not stay
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=size))
    another_machine()
    copy = locate_folder(f"{BUCKET}/base") / "model.safetensors"
    assert copy.stat().st_size == size
    put(store, write_base(tmp_path / "base", seed=4), "base")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=0))
    another_machine()
    _, there = open_llama(locate_folder(f"{BUCKET}/base"))
    assert not copy.exists()
    np.testing.assert_array_equal(there["params/norm/scale"], open_llama(folder)[1]["params/norm/scale"])
    del store.objects["bucket", "base/model.safetensors"]
    with pytest.raises(UserError, match=rf"^{BUCKET}/base/model.safetensors cannot be used: FileNotFoundError"):
        there["params/norm/scale"]


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


def test_a_store_that_is_slow_to_answer_is_named(store, monkeypatch, capsys):
    store.put(("bucket", "some/a"), b"a")
    fs = fsspec.filesystem("gs")
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    find = fs.find

    def slowly(*arguments, **more):
        time.sleep(0.5)
        return find(*arguments, **more)

    monkeypatch.setattr(fs, "find", slowly)
    assert storage.exists(f"{BUCKET}/some")
    assert capsys.readouterr().err == f"{BUCKET}/some has not answered in 0.05 s; still trying\n"
    monkeypatch.setattr(storage, "PATIENCE", 10)
    assert storage.exists(f"{BUCKET}/some")
    assert capsys.readouterr().err == ""


def test_what_cannot_be_had_is_one_line(store, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=rf"^there is nothing at {BUCKET}/nothing$"):
        fetched(f"{BUCKET}/nothing")
    with pytest.raises(UserError, match=r"^s3:// is opened by s3fs: pip install s3fs$"):
        fetched("s3://bucket/x")
    with pytest.raises(UserError, match=r"^nowhere://x: "):
        fetched("nowhere://x")
    with pytest.raises(UserError, match=r"cannot be written to: give a folder of this machine, or of gs, s3, az$"):
        opened("memory://x")
    with pytest.raises(UserError, match=r"gs:/bucket/out.json cannot be written to: give a folder of this machine"):
        write_json(tmp_path.joinpath(f"{BUCKET}/out.json").relative_to(tmp_path), {})
    for made in (lambda path: train(CONFIG, make_workload(CONFIG), path), Checkpoints):  # pathlib drops a slash
        with pytest.raises(
            UserError, match=r"^gs:/bucket/runs/x\S* cannot be written to: give a folder of this machine$"
        ):
            made(Path(f"{BUCKET}/runs/x"))
    assert str(home(opened(f"{BUCKET}/runs/x") / "checkpoints")) == f"{BUCKET}/runs/x/checkpoints"

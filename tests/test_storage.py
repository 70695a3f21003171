"""Data, weights and photos in a store."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from small_text import CONFIG, write_base
from stores import BUCKET, another_machine, put

from mtlora_jax import storage
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.loop import train
from mtlora_jax.errors import UserError
from mtlora_jax.files import write_json
from mtlora_jax.language.tokenizer import load_tokenizer
from mtlora_jax.mirrors import home, opened
from mtlora_jax.predict import photos_of
from mtlora_jax.storage import fetched
from mtlora_jax.testing.text_layouts import write_commonsense
from mtlora_jax.text.config import CommonsenseData
from mtlora_jax.text.llama_weights import open_llama
from mtlora_jax.text.source import source_of
from mtlora_jax.text.workload import make_workload
from mtlora_jax.weights.hub import locate_folder

pytestmark = pytest.mark.slow


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


def test_a_package_that_lists_names_alone_is_asked_for_the_rest(store, monkeypatch):
    store.put(("bucket", "some/a"), b"a")
    fs = fsspec.filesystem("gs")
    find = fs.find
    monkeypatch.setattr(fs, "find", lambda *arguments, **more: list(find(*arguments, **more)))
    assert fetched(f"{BUCKET}/some/a").read_bytes() == b"a"
    with pytest.raises(UserError, match=rf"^there is nothing at {BUCKET}/some/b$"):
        fetched(f"{BUCKET}/some/b")


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

"""Small files: whole or not at all."""

import os

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, read_json, replacing, write_json


def test_json_keeps_the_order_of_keys(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": [1.5, None]})
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    with pytest.raises(TypeError):
        write_json(path, object())
    assert path.read_text() == "old"


def test_unreadable_json_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*x\.json"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"x\.json is not JSON: "):
        read_json(tmp_path / "x.json")


def test_a_workdir_is_made_and_left_empty(tmp_path):
    assert list(make_workdir(tmp_path / "a/b").iterdir()) == []
    make_workdir(tmp_path / "a/b")


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the workdir .*file/run: .*; choose another --workdir"):
        make_workdir(tmp_path / "file/run")
    with pytest.raises(UserError, match="cannot write to the workdir"):
        make_workdir(tmp_path / "file")
    if os.path.exists("/proc/1"):  # a directory that not even root can write to
        with pytest.raises(UserError, match="cannot write to the workdir /proc/1"):
            make_workdir("/proc/1")

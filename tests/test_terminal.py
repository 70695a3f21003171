"""Standard streams that close while a command runs, and what the system refuses: a line or none, never a traceback."""

import io
import os
import sys

import pytest

from mtlora_jax.cli import fail_cleanly
from mtlora_jax.terminal import Unbreakable, unbreakable_streams


def closed_pipe():
    """A stream whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def test_writing_to_a_reader_that_is_gone_goes_on():
    with closed_pipe() as pipe:
        stream = Unbreakable(pipe)
        for _ in range(3):
            assert stream.write("line\n") == 5
            stream.flush()
        assert not stream.isatty()


def test_both_streams_survive_and_come_back(monkeypatch):
    with closed_pipe() as out, closed_pipe() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with unbreakable_streams():
            print("a")
            print("b", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == (out, err)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/x/y"), "error: No space left on device: /x/y"),
        (PermissionError(13, "Permission denied", "/x"), "error: Permission denied: /x"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying"), "error: the device's memory is full"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as stop, fail_cleanly():
        raise error
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_our_own_faults_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a bug"), fail_cleanly():
        raise RuntimeError("a bug")


def test_a_command_whose_reader_left_ends(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as stop, fail_cleanly():
        raise BrokenPipeError
    assert stop.value.code == 141

"""Logs: what is recorded, what is shown, and what a resumed run finds."""

import io
import json
import re
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtlora_jax.engine.log import METRICS, TENSORBOARD, Log, clock, cut, read


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(tmp_path):
    """Makes logs in the test's directory; `log.out` is what the latest of them showed."""

    def make(steps=10, first=0, stream=None, **options):
        make.out = stream or io.StringIO()
        return Log(tmp_path, steps, first, active=options.pop("active", True), stream=make.out, **options)

    return make


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]


def test_records_steps_and_metrics(log, tmp_path):
    with log(every=2, steps=5) as writer:
        writer.evaluation(0, {"a": {"loss": 2.0, "miou": float("nan")}, "total": {"loss": 2.0}})
        for step in range(1, 6):
            writer.step(step, {"loss": np.float32(1 / step), "loss/a": 0.25})
    assert records(tmp_path) == [
        {"step": 0, "kind": "eval", "a/loss": 2.0, "a/miou": None, "total/loss": 2.0},
        {"step": 2, "kind": "train", "loss": 0.5, "loss/a": 0.25},
        {"step": 4, "kind": "train", "loss": 0.25, "loss/a": 0.25},
        # The last step is always recorded.
        {"step": 5, "kind": "train", "loss": pytest.approx(0.2), "loss/a": 0.25},
    ]


def test_records_are_on_disk_at_once(log, tmp_path):
    with log() as writer:
        writer.step(1, {"loss": 1.0})
        assert len(records(tmp_path)) == 1


def test_resume_cuts_what_will_be_repeated(log, tmp_path):
    with log() as writer:
        for step in (1, 2, 3):
            writer.step(step, {"loss": float(step)})
            writer.evaluation(step, {"a": {"loss": 1.0}})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "ki')
    with log(first=2) as writer:
        writer.step(3, {"loss": 30.0})
    assert [(r["step"], r["kind"]) for r in records(tmp_path)] == [
        (1, "train"), (1, "eval"), (2, "train"), (2, "eval"), (3, "train"),
    ]  # fmt: skip
    assert records(tmp_path)[-1]["loss"] == 30.0


def test_cut_leaves_whole_files_and_missing_ones_alone(tmp_path):
    path = tmp_path / METRICS
    cut(path, 3)
    assert not path.exists()
    assert list(read(path)) == []
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = path.stat().st_mtime_ns, path.stat().st_ino
    cut(path, 2)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    cut(path, 0)
    assert path.read_text() == ""


def test_tensorboard_reads_scalars_and_pictures_and_forgets_the_former_life(log, tmp_path):
    with log() as writer:
        for step in (1, 2, 3):
            writer.step(step, {"loss": float(step)})
    with log(first=1) as writer:
        writer.step(2, {"loss": 20.0})
        writer.evaluation(2, {"a": {"miou": 0.5}})
        writer.picture(2, "semseg", np.zeros((4, 6, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / TENSORBOARD))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 20.0)]
    assert [(e.step, e.value) for e in events.Scalars("eval/a/miou")] == [(2, 0.5)]
    image = events.Images("semseg")[0]
    assert (image.step, image.width, image.height) == (2, 6, 4)


def test_without_tensorboard_one_line_says_so(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with log() as writer:
        writer.step(1, {"loss": 1.0})
        writer.picture(1, "semseg", np.zeros((4, 6, 3), np.uint8))
    assert log.out.getvalue().splitlines()[0] == "no TensorBoard files: pip install tensorboardX to have them"
    assert not (tmp_path / TENSORBOARD).exists()
    assert len(records(tmp_path)) == 1


def test_other_processes_write_nothing(log, tmp_path):
    with log(active=False) as writer:
        writer.step(1, {"loss": 1.0})
        writer.evaluation(1, {"a": {"loss": 1.0}})
        writer.picture(1, "x", np.zeros((4, 6, 3), np.uint8))
        writer.say("hello")
    assert list(tmp_path.iterdir()) == []
    assert log.out.getvalue() == ""


def test_jaxs_first_process_writes_by_default(tmp_path):
    with Log(tmp_path, 1, stream=io.StringIO()) as writer:
        writer.step(1, {"loss": 1.0})
    assert len(records(tmp_path)) == 1


def test_plain_lines_tell_rate_and_time_left(log):
    with log(steps=100, every=10) as writer:
        for step in range(1, 31):
            writer.step(step, {"loss": 1.5})
        writer.say("hello")
    lines = log.out.getvalue().splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"step 20/100  loss 1\.5  \S+ steps/s  \d+:\d\d left", lines[1])
    assert lines[3] == "hello"


def test_a_terminal_gets_a_bar_that_begins_where_the_run_does(log):
    with log(steps=100, first=40, stream=Terminal()) as writer:
        writer.step(41, {"loss": 1.5})
        writer.say("hello")
        writer.step(50, {"loss": 1.25})
    shown = log.out.getvalue()
    assert "40/100" in shown
    assert "50/100" in shown
    assert "loss 1.25" in shown
    assert "hello\n" in shown


def test_a_terminal_without_tqdm_gets_lines(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with log(steps=10, stream=Terminal()) as writer:
        writer.step(1, {"loss": 1.5})
    assert log.out.getvalue() == "step 1/10  loss 1.5\n"


def test_clock():
    assert [clock(s) for s in (0, 59.6, 61, 3600, 36061)] == ["0:00", "1:00", "1:01", "1:00:00", "10:01:01"]

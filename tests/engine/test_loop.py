"""How a run ends early, and goes on: bad files, losses that are not finite, signals, other lengths."""

import json
import math
import os
import signal
from dataclasses import replace

import line
import pytest

from mtlora_jax.config import Optim, Train
from mtlora_jax.engine import results as record
from mtlora_jax.engine.interrupt import STOPS, Interrupts
from mtlora_jax.engine.loop import train
from mtlora_jax.errors import Interrupted, UserError
from mtlora_jax.input.loader import ExampleBatches
from mtlora_jax.input.protocols import HeldOut

CONFIG = line.LineConfig(
    train=Train(steps=6, batch_size=8, workers=0, log_every=1), optim=Optim(lr=0.1, schedule="linear")
)


def run(config, workdir, **changes):
    return train(config, replace(line.make_workload(config), **changes), workdir)


def records(workdir):
    return [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(workdir):
    return {r["step"]: r["loss"] for r in records(workdir) if r["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing came in the way of."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(CONFIG, workdir)


def test_a_bad_file_in_mid_epoch_loses_no_step_and_is_named(whole, tmp_path):
    folder, workdir = tmp_path / "data", tmp_path / "w"
    folder.mkdir()
    config = replace(CONFIG, data=line.LineData(str(folder)))
    batches = line.make_workload(config).train_batches(8)
    culprit = int(batches.batch(0, 3, range(8))["id"][0])
    (folder / "broken").write_text(str(culprit))
    with pytest.raises(UserError) as refusal:
        run(config, workdir)
    message = str(refusal.value)
    assert f"step 4: {folder}/{culprit}.png: cannot be decoded" in message
    assert f"{workdir} is saved at step 3, and the same command resumes there" in message
    (folder / "broken").unlink()
    assert run(config, workdir)["last"] == whole[1]["last"]
    assert steps(workdir) == steps(whole[0])


def test_a_resumed_run_says_where_it_goes_on(tmp_path, capsys):
    run(CONFIG, tmp_path)
    capsys.readouterr()
    longer = replace(CONFIG, train=replace(CONFIG.train, steps=9))
    run(longer, tmp_path)
    said = capsys.readouterr().err
    assert f"resumed at step 6 from {tmp_path}/checkpoints/6: 3 of 9 steps remain" in said
    assert (
        "the learning rate of the next step is 0.0333; on a schedule of 6 steps it was to be 0: --optim.steps=6" in said
    )


def test_a_longer_run_may_keep_its_schedule_and_then_nothing_is_said(tmp_path, capsys):
    run(CONFIG, tmp_path)
    capsys.readouterr()
    kept = replace(CONFIG, train=replace(CONFIG.train, steps=9), optim=replace(CONFIG.optim, steps=6))
    run(kept, tmp_path)
    assert "the learning rate" not in capsys.readouterr().err
    assert [r["lr"] for r in records(tmp_path) if r["kind"] == "train"][-3:] == [0, 0, 0]


@pytest.mark.parametrize(("cause", "words"), [("nan", "labels of line hold"), ("rate", "the predictions are not")])
def test_a_loss_that_is_not_finite_names_what_was_not(tmp_path, cause, words):
    folder, workdir = tmp_path / "data", tmp_path / "w"
    folder.mkdir()
    every = replace(CONFIG.train, checkpoint_every=1, steps=40)
    config = replace(CONFIG, data=line.LineData(str(folder)), train=every)
    if cause == "nan":
        batches = line.make_workload(config).train_batches(8)
        (folder / "nan").write_text(str(int(batches.batch(0, 5, range(8))["id"][1])))
    else:
        config = replace(config, optim=Optim(lr=1e30, schedule="constant", clip_norm=0.0))
    with pytest.raises(UserError) as refusal:
        run(config, workdir)
    message = str(refusal.value)
    assert words in message
    assert f"{folder}/" in message
    assert f"--init_from={workdir} --workdir=NEW with a lower --optim.lr" in message
    kept = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert f"go on from step {kept}" in message
    assert all(math.isfinite(loss) for step, loss in steps(workdir).items() if step <= kept)


@pytest.mark.parametrize("signum", STOPS)
def test_every_signal_that_stops_saves_first(whole, tmp_path, signum):
    class Hooked(ExampleBatches):
        def batch(self, seed, step, rows):
            if step == 3:
                os.kill(os.getpid(), signum)
            return super().batch(seed, step, rows)

    def batches(B):
        inner = line.make_workload(CONFIG).train_batches(B)
        return Hooked(inner.examples, B, inner.order)

    # Tests may run under nohup, which has one of them ignored.
    before = signal.signal(signum, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="stopped and saved at step") as stopped:
            run(CONFIG, tmp_path, train_batches=batches)
    finally:
        signal.signal(signum, before)
    assert stopped.value.exit_code == 128 + signum
    assert run(CONFIG, tmp_path)["last"] == whole[1]["last"]


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_failure_to_write_is_one_line_and_the_same_command_resumes(whole, tmp_path, monkeypatch):
    config = replace(CONFIG, train=replace(CONFIG.train, eval_every=3))
    real, failed = record.write, []

    def write(workdir, results):
        if not failed:
            failed.append(True)
            raise OSError(28, "No space left on device", str(tmp_path / "results.json"))
        real(workdir, results)

    monkeypatch.setattr(record, "write", write)
    with pytest.raises(UserError, match=r"^No space left on device: .*results\.json; .* is saved at step 3"):
        run(config, tmp_path)
    assert run(config, tmp_path)["last"] == whole[1]["last"]


def test_a_held_out_file_that_cannot_be_read_loses_no_step_and_no_evaluation(whole, tmp_path):
    class Broken(HeldOut):
        batch_size = 64

        def __len__(self):
            return 1

        def __getitem__(self, i):
            asked.append(i)
            # The first evaluation is of step 0, the second of the last one.
            if len(asked) > 1:
                raise UserError("semseg: /data/7.png: cannot be decoded")
            return line.make_workload(CONFIG).held_out(64)[i]

    asked = []
    with pytest.raises(UserError, match=r"7\.png: cannot be decoded; .* is saved at step 6, and the same command"):
        run(CONFIG, tmp_path, held_out=lambda B: Broken())
    assert run(CONFIG, tmp_path)["last"] == whole[1]["last"]


def test_what_is_not_a_number_is_never_the_best_and_null_in_files(tmp_path, capsys):
    strange = line.make_workload(CONFIG).objectives["line"]
    objectives = {"line": replace(strange, compute=lambda sums: {"error": math.nan})}
    results = run(CONFIG, tmp_path, objectives=objectives)
    assert "best" not in results
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["last"]["metrics"]["line"]["error"] is None
    assert "no step is the best: none has a mean score" in capsys.readouterr().out
    assert run(CONFIG, tmp_path, objectives=objectives)["last"]["metrics"]["line"]["error"] is None


def test_best_is_by_what_the_config_says(tmp_path):
    every = replace(CONFIG.train, eval_every=1)
    for by, name in (("", "mean score"), ("mean", "mean score"), ("loss", "negative total loss"), ("line", "line")):
        config = replace(CONFIG, train=replace(every, best=by))
        results = run(config, tmp_path / f"by{by}")
        assert list(results["best"]["score"]) == [name]
    with pytest.raises(UserError, match=r"train.best: there is no mIoU: there are mean, line, loss"):
        run(replace(CONFIG, train=replace(every, best="mIoU")), tmp_path / "x")
    assert not (tmp_path / "x" / "config.json").exists()

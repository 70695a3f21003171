"""Both doors as a user starts them (I11), what they refuse, and what survives a kill (I5)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "configs" / "scenes_smoke.py"
TINY = (
    "--backbone.image_size=32",
    "--backbone.dim=8",
    "--backbone.depths=1,1,1,1",
    "--decoder_channels=2,2,2,2",
    "--data.train_length=16",
    "--data.val_length=4",
    "--train.batch_size=4",
    "--train.steps=6",
    "--train.eval_every=3",
    "--train.checkpoint_every=1",
    "--train.log_every=1",
    "--train.workers=0",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """One compilation cache for all runs of this file: the first compiles, the others read."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def _interruptible():
    """Shells start what runs in their background with SIGINT ignored, and that is handed down; a handler is not."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(cache, script: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, *([script] if script.endswith(".py") else ["-m", script]), *map(str, arguments)]
    environment = {**os.environ, **cache, "PYTHONWARNINGS": "default"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(cache, script: str, *arguments) -> tuple[int, str, str]:
    process = start(cache, script, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def refused(result: tuple[int, str, str], *words: str) -> None:
    """One line, no traceback, a status other than 0, and the words that matter."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]


JOBS = {
    "scenes": (SMOKE, *TINY),
    "text": (ROOT / "configs" / "text_smoke.py",),
    "image_text": (ROOT / "configs" / "image_text_smoke.py",),
}
"""Six steps of each domain: a recipe and overrides."""


@pytest.fixture(scope="module", params=JOBS)
def job(request) -> tuple:
    return JOBS[request.param]


scenes_only = pytest.mark.parametrize("job", ["scenes"], indirect=True)
image_text_only = pytest.mark.parametrize("job", ["image_text"], indirect=True)
text_only = pytest.mark.parametrize("job", ["text"], indirect=True)


@pytest.fixture(scope="module")
def finished(cache, job, tmp_path_factory) -> Path:
    """A tiny run, trained to its end."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    code, out, err = run(cache, "train.py", "--config", *job, "--workdir", workdir)
    assert code == 0, err
    assert "last (6)" in out
    return workdir


def records(workdir: Path) -> list[dict]:
    """Losses and metrics; how long they took is another matter."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["kind"] != "health"]


def seen(workdir: Path) -> dict[int, tuple]:
    """The loss of every step, and which examples it was of."""
    return {r["step"]: (r["loss"], r["ids"]) for r in records(workdir) if r["kind"] == "train"}


def leaves(workdir: Path, step: int) -> dict[str, str]:
    """The digest of every leaf of a checkpoint."""
    stored = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["leaves"]
    return {f"{item}/{path}": leaf["digest"] for item in stored for path, leaf in stored[item].items()}


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(finished):
    for name in ("config.json", "metrics.jsonl", "results.json", "curves.png"):
        assert (finished / name).stat().st_size > 0, name
    results = json.loads((finished / "results.json").read_text())
    assert results["last"]["step"] == 6
    assert set(results) >= {"initial", "constant", "last", "best", "seconds"}


@pytest.mark.slow
def test_eval_gives_the_last_evaluation_digit_for_digit(cache, finished):
    code, _, err = run(cache, "eval.py", "--workdir", finished)
    assert code == 0, err
    results = json.loads((finished / "results.json").read_text())
    again = json.loads((finished / "evaluation.json").read_text())
    assert (again["step"], again["metrics"]) == (results["last"]["step"], results["last"]["metrics"])


@pytest.mark.slow
def test_a_finished_run_reports_and_changes_nothing(cache, job, finished):
    before = (finished / "results.json").read_bytes(), (finished / "metrics.jsonl").read_bytes()
    code, out, _ = run(cache, "train.py", "--config", *job, "--workdir", finished)
    assert code == 0
    assert "last (6)" in out
    assert before == ((finished / "results.json").read_bytes(), (finished / "metrics.jsonl").read_bytes())


@pytest.mark.slow
def test_killed_and_resumed_ends_in_the_same_bits(cache, job, finished, tmp_path):
    stopped_and_resumed(cache, job, finished, tmp_path / "w", signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["scenes", "text"], indirect=True)
def test_asked_to_stop_and_resumed_ends_in_the_same_bits(cache, job, finished, tmp_path):
    stop = signal.SIGTERM if job == JOBS["scenes"] else signal.SIGINT
    stopped_and_resumed(cache, job, finished, tmp_path / "w", stop)


def stopped_and_resumed(cache, job, finished, workdir, stop):
    command = ("train.py", "--config", *job, "--workdir", workdir)
    process = start(cache, *command)
    while not (workdir / "checkpoints" / "2").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    if stop == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + stop, err
        assert "the same command resumes" in err
        assert "Traceback" not in err
    code, _, err = run(cache, *command)
    assert code == 0, err
    assert leaves(workdir, 6) == leaves(finished, 6)
    assert seen(workdir) == seen(finished)
    assert len(seen(workdir)) == 6
    metrics = [json.loads((w / "results.json").read_text())["last"] for w in (workdir, finished)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(cache, job, finished, tmp_path):
    workdir = tmp_path / "w"
    subprocess.run(["cp", "-r", finished, workdir], check=True)
    results = json.loads((workdir / "results.json").read_text())
    del results["finished"]
    (workdir / "results.json").write_text(json.dumps(results))
    newest = workdir / "checkpoints" / "6"
    for file in newest.rglob("*"):
        if file.is_file() and "/d/" in str(file):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, _, err = run(cache, "train.py", "--config", *job, "--workdir", workdir)
    assert code == 0, err
    assert "checkpoint 6 is damaged" in err
    assert "going back to 5" in err
    assert leaves(workdir, 6) == leaves(finished, 6)


@pytest.mark.slow
@scenes_only
def test_predict_writes_a_picture_for_every_task(cache, finished, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(photo)
    out = tmp_path / "out"
    code, _, err = run(cache, "mtlora_jax.predict", "--workdir", finished, "--image", photo, "--out", out)
    assert code == 0, err
    names = ("semseg", "human_parts", "saliency", "normals", "depth", "edges")
    assert {p.name for p in out.iterdir()} == {"raw", *(f"photo_{name}.png" for name in (*names, "all"))}
    for name in names:
        with Image.open(out / f"photo_{name}.png") as picture:
            assert picture.size == (70, 50)
    for name, shape in (("depth", (50, 70)), ("normals", (50, 70, 3))):
        assert np.load(out / "raw" / name / "photo.npy").shape == shape
    with Image.open(out / "raw" / "semseg" / "photo.png") as classes:
        assert np.asarray(classes).max() < 7
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    refused(run(cache, "mtlora_jax.predict", "--workdir", finished, "--image", text, "--out", out), "notes.jpg")


@pytest.mark.slow
def test_a_dry_run_trains_nothing_and_says_what_would_be(cache, job, tmp_path):
    if job == JOBS["text"]:
        # The backward pass then keeps the dropout's keys.
        job = (*job, "--adapter.dropout=0.1", "--remat=full")
    code, out, err = run(cache, "train.py", "--config", *job, "--workdir", tmp_path / "w", "--dry_run")
    assert code == 0, err
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert 0 < summary["params_trainable"] < summary["params_total"]
    assert f"{summary['params_trainable']:,}" in out
    assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.slow
@text_only
def test_a_language_run_answers_is_scored_and_leaves_for_other_libraries(cache, finished, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mtlora_jax.generate",
        "--workdir",
        finished,
        "--task",
        "boolq",
        "--max_new_tokens",
        "4",
    ]
    environment = {**os.environ, **cache}
    asked = subprocess.run(command, cwd=ROOT, env=environment, input="is it?\nwhy?\n", capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.count("\n") >= 2
    scoring = ("--protocol", "options", "--predictions", tmp_path / "p")
    code, out, err = run(cache, "eval.py", "--workdir", finished, *scoring)
    assert code == 0, err
    assert "average" in out
    assert len((tmp_path / "p" / "boolq.jsonl").read_text().splitlines()) == 8
    code, out, err = run(cache, "mtlora_jax.report", finished, "--json", tmp_path / "report.json")
    assert code == 0, err
    assert "text_smoke (1)" in out
    merge = ("mtlora_jax.convert", "merge", finished, tmp_path / "merged", "--task", "boolq")
    code, out, err = run(cache, *merge)
    assert code == 0, err
    assert err.count("\n") == 1, err
    assert "56 leaves from its checkpoint" in err
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).exists()
        assert name in out
    refused(run(cache, *merge), "holds model.safetensors already", "--overwrite")
    code, _, err = run(cache, *merge, "--overwrite", "--dtype", "bfloat16")
    assert code == 0, err
    drawn = run(cache, "mtlora_jax.convert", "to-peft", finished, tmp_path / "peft", "--task", "boolq")
    refused(drawn, "peft can open no base")
    refused(run(cache, "mtlora_jax.convert", "merge", finished, tmp_path / "x"), "name one of boolq")
    refused(run(cache, "mtlora_jax.generate", "--workdir", finished, "--task", "chess"), "no task chess", "boolq")
    predict = run(cache, "mtlora_jax.predict", "--workdir", finished, "--image", "x", "--out", "y")
    refused(predict, "no run that reads photos")
    refused(run(cache, "mtlora_jax.report", tmp_path), "holds no run")


@pytest.mark.slow
@image_text_only
def test_a_run_of_image_and_text_answers_is_scored_and_leaves_for_other_libraries(cache, finished, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(photo)
    ask = ("mtlora_jax.predict", "--workdir", finished, "--image", photo, "--out", tmp_path / "out")
    code, out, err = run(cache, *ask, "--task", "vqa", "--question", "What is it?")
    assert code == 0, err
    assert "photo.jpg: " in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"answers.json", "answers.png"}
    refused(run(cache, *ask, "--task", "nlvr", "--question", "It is."), "nlvr is about 2 photos")
    refused(run(cache, *ask, "--task", "vqa"), "--question")
    scoring = ("--protocol", "generate", "--predictions", tmp_path / "p", "--search.beams=2")
    code, out, err = run(cache, "eval.py", "--workdir", finished, *scoring)
    assert code == 0, err
    assert "consistency" in out
    names = {"vqa_predict.json", "gqa_predict.json", "nlvr_submit.csv", "caption_predict.json"}
    assert {path.name for path in (tmp_path / "p").iterdir()} == names
    merge = ("mtlora_jax.convert", "merge", finished, tmp_path / "merged", "--task", "vqa")
    code, out, err = run(cache, *merge)
    assert code == 0, err
    merged = ("--config", *JOBS["image_text"], f"--init_from={tmp_path / 'merged'}", "--adapter=None")
    code, out, err = run(cache, "eval.py", *merged)
    assert code == 0, err
    peft = ("mtlora_jax.convert", "to-peft", finished, tmp_path / "peft", "--task", "gqa")
    code, out, err = run(cache, *peft)
    assert code == 0, err
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()
    back = ("mtlora_jax.convert", "to-mtl-lora-reference", finished, tmp_path / "LAST.pth")
    code, out, err = run(cache, *back)
    assert code == 0, err
    (tmp_path / "hyper.json").write_text(
        json.dumps({"r": 2, "lora_alpha": 16, "n_tasks": 4, "n_up": 2, "tau": 0.8, "diagonal": False, "feat_dim": 288})
    )
    hyper = ("--hyper", tmp_path / "hyper.json", "--base", "scenes_bart")
    there = ("mtlora_jax.convert", "from-mtl-lora-reference", tmp_path / "LAST.pth", tmp_path / "m.safetensors", *hyper)
    code, out, err = run(cache, *there)
    assert code == 0, err
    same = ("--config", *JOBS["image_text"], f"--init_from={tmp_path / 'm.safetensors'}")
    code, out, err = run(cache, "eval.py", *same)
    assert code == 0, err
    results = json.loads((finished / "results.json").read_text())["last"]["metrics"]
    assert f"{results['vqa']['loss']:.4f}" in out


REFUSALS = {
    "an unknown key": (("--optim.lrr=1",), ("optim.lrr", "optim.lr")),
    "a wrong type": (("--train.steps=many",), ("train.steps", "many")),
    "a task that is none": (("--tasks.semsge.weight=1",), ("semsge",)),
    "an image no window fits": (("--backbone.image_size=100",), ("image_size 100", "96")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSALS)
def test_bad_overrides_end_in_one_line(cache, tmp_path, case):
    overrides, words = REFUSALS[case]
    refused(run(cache, "train.py", "--config", SMOKE, "--workdir", tmp_path / "w", *overrides), *words)
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@scenes_only
def test_bad_files_and_places_end_in_one_line(cache, finished, tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    refused(run(cache, "train.py", "--config", tmp_path / "none.py"), "none.py")
    refused(run(cache, "train.py", "--config", empty), "get_config")
    refused(run(cache, "eval.py", "--workdir", tmp_path), "holds no run")
    other = run(cache, "train.py", "--config", SMOKE, "--workdir", finished, *TINY, "--optim.lr=0.5")
    refused(other, "another config", "optim.lr")
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused(run(cache, "train.py", "--config", SMOKE, "--workdir", blocked / "w", *TINY), "cannot write")

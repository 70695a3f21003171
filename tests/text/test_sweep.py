"""Sweeps: every slot is the single run of its config, and what a run can do a slot can."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_text import CONFIG, TASKS

from mtlora_jax.cli import override
from mtlora_jax.convert.__main__ import main as convert
from mtlora_jax.domains import workload_of
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.sweep import best_of, slots_of
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.language.loss import token_losses
from mtlora_jax.report import main as report
from mtlora_jax.text.workload import make_workload
from mtlora_jax.weights import safetensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parent(base):
    """Batches of different lengths, dropout, and tasks that a batch may lack."""
    return replace(
        CONFIG,
        init_from=str(base),
        tokenizer="",
        adapter=replace(CONFIG.adapter, dropout=0.1),
        buckets=(74, 76, 78, 80),
        optim=replace(CONFIG.optim, eps=1e-3),  # Adam makes noise of gradients that are zero
        train=replace(CONFIG.train, steps=3, batch_size=8, checkpoint_every=2, log_every=1),
    )


@pytest.fixture(scope="module")
def swept(parent, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swept") / "run"
    config = override(
        parent, ["--sweep.optim.lr=1e-2,3e-2", "--sweep.seed=0,1", "--sweep.adapter.method", "lora", "mtl_lora"]
    )
    return config, workdir, train(config, workload_of(config), workdir)


@pytest.mark.parametrize(
    "overrides",
    [
        ("--optim.lr=3e-2", "--seed=1", "--adapter.method=lora"),
        ("--optim.lr=1e-2", "--seed=0", "--adapter.method=mtl_lora"),
        ("--optim.lr=3e-2", "--seed=1", "--adapter.method=mtl_lora"),
    ],
)
def test_a_slot_equals_the_single_run(swept, parent, tmp_path, overrides):
    _, workdir, found = swept
    name = ",".join(text.rpartition(".")[2].removeprefix("--") for text in overrides)
    name = name.replace("1e-2", "0.01").replace("3e-2", "0.03")
    config = override(parent, list(overrides))
    single = train(config, make_workload(config), tmp_path)
    ours, about = safetensors.read(workdir / "slots" / name / "adapter.safetensors")
    theirs, told = safetensors.read(tmp_path / "adapter.safetensors")
    assert ours.keys() == theirs.keys()
    assert about.pop("fingerprint") != "" != told.pop("fingerprint")  # of values that differ in their last bits
    assert about == told
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5, atol=1e-5, err_msg=path)
    metrics = found["last"]["metrics"][name]
    for task in TASKS:
        assert metrics[f"{task}/accuracy"] == single["last"]["metrics"][task]["accuracy"]
        assert found["constant"][name][f"{task}/accuracy"] == single["constant"][task]["accuracy"]
    assert metrics["loss"] == pytest.approx(single["last"]["metrics"]["total"]["loss"], rel=1e-5)
    train_losses = [
        [json.loads(line).get(key) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder, key in ((workdir, f"loss/{name}"), (tmp_path, "loss"))
    ]
    assert len(train_losses[0]) == len(train_losses[1])
    for one, other in zip(*train_losses, strict=True):
        assert (one is None and other is None) or one == pytest.approx(other, rel=1e-5)


def test_a_stopped_sweep_ends_in_the_same_bits(parent, tmp_path):
    config = override(parent, ["--sweep.optim.lr=1e-2,3e-2", "--optim.steps=3"])
    whole = train(config, workload_of(config), tmp_path / "whole")
    short = replace(config, train=replace(config.train, steps=2))
    train(short, workload_of(short), tmp_path / "stopped")
    assert train(config, workload_of(config), tmp_path / "stopped")["last"] == whole["last"]
    theirs = flatten(open_run(tmp_path / "stopped").variables())
    for path, leaf in flatten(open_run(tmp_path / "whole").variables()).items():
        assert np.array_equal(leaf, theirs[path]), path


def test_the_hopeless_stop_and_the_others_go_on_as_before(parent, tmp_path):
    overrides = ["--sweep.optim.lr=1e-9,1e-2", "--train.eval_every=1", "--train.steps=2", "--train.best=boolq"]
    config, whole = override(parent, [*overrides, "--sweep_keep=0.5"]), override(parent, overrides)
    seeds = override(config, ["--sweep.optim.lr=1e-9,1e-2,3e-2", "--sweep.seed=0,1"])
    swept = workload_of(seeds)

    def scores(*of):
        return {slot.name: {"score": score} for slot, score in zip(slots_of(seeds), of, strict=True)}

    first = swept.hopeless(scores(0.1, 0.1, 0.4, 0.0, float("nan"), 0.9), ())
    assert first == ["lr=0.03,seed=0", "lr=0.03,seed=1"]  # three runs keep two, and NaN is the worst
    assert swept.hopeless(scores(0.1, 0.1, 0.4, 0.0, 1.0, 1.0), first) == ["lr=1e-09,seed=0", "lr=1e-09,seed=1"]
    assert swept.hopeless(scores(*6 * [0.0]), [slot.name for slot in slots_of(seeds)[2:]]) == []

    found = train(config, workload_of(config), tmp_path / "kept")
    at = found["stopped"]
    assert list(at.values()) == [1]
    plain = train(whole, workload_of(whole), tmp_path / "whole")
    assert "stopped" not in plain
    for slot in slots_of(config):
        ours = flatten(open_run(tmp_path / "kept").slot(slot.name).variables()["lora"])
        theirs = flatten(open_run(tmp_path / "whole").slot(slot.name).variables(at.get(slot.name, 2))["lora"])
        for path, leaf in ours.items():
            np.testing.assert_allclose(leaf, theirs[path], rtol=1e-5, atol=1e-6, err_msg=f"{slot.name} {path}")
    lines = [json.loads(line) for line in (tmp_path / "kept" / "metrics.jsonl").read_text().splitlines()]
    trained = [sum(key.startswith("loss/") for key in line) for line in lines if "grad_norm" in line]
    assert trained == [2, 1]
    # Stopped between, the same ones are stopped again.
    short = replace(config, train=replace(config.train, steps=1), optim=replace(config.optim, steps=2))
    train(short, workload_of(short), tmp_path / "resumed")
    again = train(config, workload_of(config), tmp_path / "resumed")
    assert again["stopped"] == at
    theirs = flatten(open_run(tmp_path / "resumed").variables())
    for path, leaf in flatten(open_run(tmp_path / "kept").variables()).items():
        assert np.array_equal(leaf, theirs[path]), path


def test_a_slot_is_merged_exported_and_evaluated(swept, tmp_path, capsys):
    _, workdir, found = swept
    best, _ = best_of({name: of["score"] for name, of in found["last"]["metrics"].items() if name != "total"})
    convert(["merge", str(workdir), str(tmp_path / "merged"), "--task", "boolq", "--slot", "best"])
    assert f"the best slot is {best}" in capsys.readouterr().err
    assert (tmp_path / "merged" / "model.safetensors").exists()
    name = "lr=0.01,seed=1,method=lora"
    convert(["to-peft", "--slot=" + name, str(workdir), str(tmp_path / "peft"), "--task", "boolq"])
    exported, _ = safetensors.read(tmp_path / "peft" / "adapter_model.safetensors")
    ours, _ = safetensors.read(workdir / "slots" / name / "adapter.safetensors")
    A = next(leaf for path, leaf in ours.items() if path.endswith("q_proj/A"))
    theirs = next(leaf for path, leaf in exported.items() if "layers.0.self_attn.q_proj.lora_A" in path)
    np.testing.assert_array_equal(theirs.T, A[0])
    metrics = open_run(workdir).slot(name).evaluate()
    assert metrics["boolq"]["accuracy"] == found["last"]["metrics"][name]["boolq/accuracy"]
    assert metrics["total"]["loss"] == pytest.approx(found["last"]["metrics"][name]["loss"], rel=1e-5)
    assert (workdir / "slots" / name / "evaluation.json").exists()


def test_a_sweep_is_reported_run_by_run_with_its_seeds_together(swept, capsys):
    report([str(swept[1])])
    header = capsys.readouterr().out.splitlines()[0]
    assert all(f"lr={lr},method={m} (2)" in header for lr in ("0.01", "0.03") for m in ("lora", "mtl_lora"))


def test_commands_want_to_know_which_slot(swept, parent):
    _, workdir, _ = swept
    with pytest.raises(UserError, match=r"this is a sweep: give --slot best or one of lr=0\.01,seed=0,method=lora"):
        open_run(workdir).slot(None)
    with pytest.raises(UserError, match="there is no slot lr=7"):
        open_run(workdir).slot("lr=7")
    config = replace(parent, init_from=str(workdir))
    with pytest.raises(UserError, match="holds a sweep: start from a slot"):
        make_workload(config).load_base()


def test_a_slot_that_diverges_leaves_the_others_alone(parent, tmp_path):
    config = override(parent, ["--sweep.optim.lr=1e-2,1e38", "--train.steps=4"])
    found = train(config, workload_of(config), tmp_path / "both")
    alone = override(parent, ["--sweep.optim.lr=1e-2", "--train.steps=4"])
    kept = train(alone, workload_of(alone), tmp_path / "one")
    assert found["last"]["metrics"]["lr=0.01"]["loss"] == pytest.approx(kept["last"]["metrics"]["lr=0.01"]["loss"])
    assert best_of({name: found["last"]["metrics"][name]["score"] for name in ("lr=0.01", "lr=1e+38")})[0] == "lr=0.01"
    every = override(parent, ["--sweep.optim.lr=3e38,3.3e38", "--train.steps=4"])
    with pytest.raises(UserError, match="is not finite"):
        train(every, workload_of(every), tmp_path / "none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--sweep.data.world=1,2"], "sweep.data.world: the runs of a sweep share one base, one data set"),
        (["--sweep.train.batch_size=1,2"], "sweep.train.batch_size: the runs of a sweep share one base"),
        (["--sweep.seed=0,0"], "sweep.seed needs values that differ"),
        (["--sweep.seed=0,x"], "seed must be a whole number"),
        (["--sweep.seed="], "--sweep.seed needs single values"),
        (["--sweep.adapter.sites=a,b"], "--sweep.adapter.sites needs single values"),
        (["--sweep.optim.lrr=1,2"], "unknown config key optim.lrr: did you mean optim.lr"),
        (["--sweep.adapter.rank=2,0"], "adapter: "),
        (["--sweep.optim.lr=1,-1"], "optim.lr must be at least 0"),
        (["--sweep.seed=0,1", "--train.best=loss"], "train.best: the runs of a sweep are compared by scores"),
        (["--sweep.seed=0,1", "--init_from=None"], "sweep.seed: this base is drawn from the seed"),
    ],
)
def test_what_cannot_be_swept_is_refused(parent, overrides, message):
    def started() -> None:
        workload_of(override(replace(parent, tokenizer=CONFIG.tokenizer), overrides)).load_base()

    with pytest.raises(UserError, match=message):
        started()


def test_slots_are_named_by_what_they_differ_in(parent):
    config = override(parent, ["--sweep.optim.lr=1e-3,1e-2", "--sweep.seed=3,4"])
    assert [(slot.name, slot.run, slot.config.seed) for slot in slots_of(config)][1:3] == [
        ("lr=0.001,seed=4", "lr=0.001", 4),
        ("lr=0.01,seed=3", "lr=0.01", 3),
    ]
    assert all(not slot.config.sweep for slot in slots_of(config))


def test_chunks_without_targets_are_skipped_for_many_runs_too():
    def losses(kernel, hidden, targets):
        return token_losses(lambda x: x @ kernel, 8, hidden, targets)["nll"].sum()

    shapes = jax.numpy.ones((3, 4, 8)), jax.numpy.ones((3, 2, 16, 4)), jax.numpy.zeros((3, 2, 16), int)
    program = str(jax.make_jaxpr(jax.vmap(jax.grad(losses)))(*shapes))
    assert "cond[" in program
    one = jax.grad(losses)(*(x[0] for x in shapes))
    np.testing.assert_allclose(jax.vmap(jax.grad(losses))(*shapes)[0], one, rtol=1e-6)

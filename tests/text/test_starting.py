"""Starting from another run, from an adapter file, and from folders of peft: by the command line's own functions."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_text import CONFIG, TASKS, write_base

from mtlora_jax.config import Train
from mtlora_jax.convert.__main__ import main as convert
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.run import evaluate_untrained, open_run
from mtlora_jax.engine.state import place_weights
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import TaskConfig
from mtlora_jax.text.workload import make_workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "a"
    config = replace(CONFIG, init_from=str(base), tokenizer="")
    return config, workdir, train(config, make_workload(config), workdir)


def weights_of(config):
    return place_weights(make_workload(config), config, make_mesh(config.mesh))


def test_a_run_starts_from_another_with_other_tasks_and_ranks(run, tmp_path, capsys):
    config, workdir, _ = run
    tasks = {task: TaskConfig() for task in ("boolq", "piqa")}
    other = replace(config, init_from=str(workdir), tasks=tasks)
    found = weights_of(other)
    theirs = flatten(open_run(workdir).variables())
    ours = flatten(found.trainable | {"params": found.frozen["params"]})
    for path, leaf in ours.items():
        taken = path in theirs and "/piqa/" not in path
        assert np.array_equal(leaf, theirs[path]) == taken if "/piqa/" not in path else path not in theirs
    assert f"leaves from {workdir} at step 2 (lora/layers (12), params/embed_tokens (1)" in found.sources
    assert "drawn from seed 0 (lora/layers" in found.sources
    wider = replace(other, adapter=replace(config.adapter, rank=4))
    assert "lora/layers (3)" in weights_of(wider).sources.partition("drawn")[0]  # the mixing of up-projections
    results = train(other, make_workload(other), tmp_path / "b")
    assert set(results["last"]["metrics"]) == {*tasks, "total"}
    assert f"leaves from {workdir} at step 2" in capsys.readouterr().err
    # Resumed, it finds its frozen weights where it started.
    longer = replace(other, train=replace(other.train, steps=3))
    assert train(longer, make_workload(longer), tmp_path / "b")["last"]["step"] == 3


def test_what_is_taken_may_be_said(run):
    config, workdir, _ = run
    only = weights_of(replace(config, init_from=f"{workdir}@last", init_only="^params|_proj/A$"))
    theirs = flatten(open_run(workdir).variables())
    for path, leaf in flatten({"lora": only.trainable["lora"]}).items():
        assert np.array_equal(leaf, theirs[path]) == path.endswith("/A")
    with pytest.raises(UserError, match=r"init_only: '\[' is not a regular expression"):
        weights_of(replace(config, init_from=str(workdir), init_only="["))
    with pytest.raises(UserError, match="a pretrained model is taken whole"):
        weights_of(replace(config, init_only="lora"))
    with pytest.raises(UserError, match="holds no checkpoint '7'"):
        weights_of(replace(config, init_from=f"{workdir}@7"))


def test_after_divergence_the_advice_is_accepted(run, tmp_path):
    config, workdir, _ = run
    calmer = replace(config, init_from=str(workdir), optim=replace(config.optim, lr=1e-4))
    assert train(calmer, make_workload(calmer), tmp_path / "calm")["last"]["step"] == 2


def test_a_base_that_moved_is_said_and_found_again(run, base, tmp_path, capsys):
    config, _, _ = run
    moved = tmp_path / "here"
    moved.mkdir()
    for file in base.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    old = replace(config, init_from=str(moved))
    results = train(old, make_workload(old), tmp_path / "w")
    moved.rename(tmp_path / "there")
    with pytest.raises(UserError, match="there is no folder"):
        open_run(tmp_path / "w").evaluate()
    again = open_run(tmp_path / "w")
    found = again.changed(replace(again.config, init_from=str(tmp_path / "there"))).evaluate()
    assert found == results["last"]["metrics"]
    with pytest.raises(UserError, match=r"was trained otherwise: seed was 0, now 1; leave it"):
        again.changed(replace(again.config, seed=1))
    other = write_base(tmp_path / "other", seed=4)
    with pytest.raises(UserError, match="was trained on other frozen weights"):
        again.changed(replace(again.config, init_from=str(other))).evaluate()


def test_a_run_folder_of_somebody_elses_is_evaluated_all_the_same(run, monkeypatch, capsys):
    from mtlora_jax.engine import run as module

    def refuse(path, value):
        raise PermissionError(13, "Permission denied", str(path))

    _, workdir, results = run
    monkeypatch.setattr(module, "write_json", refuse)
    assert open_run(workdir).evaluate() == results["last"]["metrics"]
    out = capsys.readouterr().out
    assert "average" in out
    assert "evaluation.json is not written (Permission denied" in out


def test_a_folder_of_peft_comes_in_trains_on_and_is_evaluated(run, base, tmp_path, capsys):
    config, _, _ = run
    lora = replace(config, adapter=Adapter("lora", rank=2, alpha=4.0, dropout=0.0, sites=("self_attn/[qv]_proj",)))
    train(lora, make_workload(lora), tmp_path / "lora")
    convert(["to-peft", str(tmp_path / "lora"), str(tmp_path / "peft")])
    convert(["from-peft", str(tmp_path / "peft"), str(tmp_path / "in.safetensors")])
    assert f"--init_from={tmp_path / 'in.safetensors'}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has adapters of adapter.alpha / adapter.rank 1.0, this run of 2.0"):
        weights_of(replace(lora, init_from=str(tmp_path / "in.safetensors")))
    # The scale of what was exported lies within B.
    begun = replace(lora, init_from=str(tmp_path / "in.safetensors"), adapter=replace(lora.adapter, alpha=2.0))
    theirs, ours = open_run(tmp_path / "lora").variables()["lora"], weights_of(begun).trainable["lora"]
    products = [
        {path: leaves[path[:-1] + "A"] @ leaf for path, leaf in leaves.items() if path.endswith("/B")}
        for leaves in (flatten(theirs), flatten(ours))
    ]
    for path, product in products[0].items():
        np.testing.assert_allclose(products[1][path], 2 * product, atol=1e-6)
    metrics = evaluate_untrained(begun)
    expected = open_run(tmp_path / "lora").evaluate()
    assert jax.tree.all(jax.tree.map(lambda a, b: np.isclose(a, b, atol=1e-5), metrics, expected))
    longer = replace(begun, train=Train(steps=1, batch_size=8, workers=0))
    assert train(longer, make_workload(longer), tmp_path / "on")["initial"]["metrics"] == metrics
    with pytest.raises(SystemExit):
        convert(["from-peft", str(base), str(tmp_path / "x.safetensors")])
    assert "is not a folder of peft's" in capsys.readouterr().err


def test_an_adapter_file_is_a_start_for_the_same_tasks(run, tmp_path):
    config, workdir, results = run
    # By what it holds, whatever it is called.
    renamed = tmp_path / "mine.safetensors"
    renamed.write_bytes((workdir / "adapter.safetensors").read_bytes())
    convert(["merge", str(renamed), str(tmp_path / "merged"), "--task", "boolq"])
    assert (tmp_path / "merged" / "tokenizer.json").exists()
    begun = replace(config, init_from=str(renamed))
    metrics = evaluate_untrained(begun)
    for task in TASKS:
        assert metrics[task] == pytest.approx(results["last"]["metrics"][task], abs=1e-5)

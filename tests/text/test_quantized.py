"""Runs over a base in 8 or 4 bits: the same function as over the floats of its codes, in less memory."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_text import CONFIG

from mtlora_jax.adapters.quantized import dequantized
from mtlora_jax.config import Mesh
from mtlora_jax.convert import llama
from mtlora_jax.convert.language_files import merge_task, read_model
from mtlora_jax.engine import tables
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.errors import UserError
from mtlora_jax.text.llama import init
from mtlora_jax.text.llama_weights import open_llama, save_llama
from mtlora_jax.text.quantized import Quantized
from mtlora_jax.text.source import leaves_for
from mtlora_jax.text.workload import make_model, make_workload
from mtlora_jax.weights.hub import shipped

pytestmark = pytest.mark.slow
WIDE = replace(CONFIG, model=replace(CONFIG.model, hidden=64, intermediate=128), quantize="nf4")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model whose widths nf4 divides into blocks, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("wide")
    save_llama(folder, WIDE.model, make_workload(replace(WIDE, quantize="none")).init(3)["params"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((shipped("microworld") / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "a"
    config = replace(WIDE, init_from=str(base), tokenizer="")
    train(config, make_workload(config), workdir)
    return config, workdir


def test_a_base_is_read_leaf_by_leaf_and_projections_are_quantised(base):
    reads = []

    class Counting:
        def __init__(self, leaves):
            self._leaves, self.where = leaves, leaves.where
            self.shape, self.has_parts = leaves.shape, leaves.has_parts

        def __iter__(self):
            return iter(self._leaves)

        def __getitem__(self, path):
            reads.append(path)
            return self._leaves[path]

    floats = open_llama(base)[1]
    for kind in ("nf4", "int8"):
        leaves = Quantized(Counting(floats), kind)
        assert all(path in leaves for path in leaves)
        assert not reads
        assert {path: leaves.shape(path) for path in leaves} == {path: leaves[path].shape for path in leaves}
        assert sorted(reads) == sorted(floats)
        reads.clear()
        shapes = jax.eval_shape(lambda kind=kind: init(make_model(replace(WIDE, quantize=kind)), 0))["params"]
        wanted = {path: (leaf.shape, leaf.dtype) for path, leaf in tables.flatten({"params": shapes}).items()}
        assert {path: (leaves[path].shape, leaves[path].dtype) for path in leaves} == wanted
        reads.clear()
        norms = [path for path in leaves if path.endswith("scale") and "kernel" not in path]
        assert norms
        assert all(np.array_equal(leaves[path], floats[path]) for path in norms)
        assert np.array_equal(leaves["params/embed_tokens/embedding"], floats["params/embed_tokens/embedding"])
        reads.clear()


@pytest.mark.parametrize(("kind", "remat"), [("nf4", "none"), ("nf4", "full"), ("int8", "dots")])
def test_training_is_that_over_the_floats(kind, remat):
    config = replace(WIDE, quantize=kind, remat=remat)
    ours, theirs = make_workload(config), make_workload(replace(config, quantize="none"))
    batch = ours.train_batches(4).batch(0, 0, range(4))
    batch = {name: value for name, value in batch.items() if name != "id"}
    rng = np.random.default_rng(0)
    variables = ours.init(0)
    variables["lora"] = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables["lora"])
    found = []
    for workload, params in ((ours, variables["params"]), (theirs, dequantized(variables["params"]))):

        def loss(lora, workload=workload, params=params):
            outputs, _ = workload.forward({"params": params, "lora": lora}, batch, None)
            return workload.total({}, workload.sums(outputs, batch))

        found.append(jax.jit(jax.value_and_grad(loss))(variables["lora"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *found)


def test_no_floats_wait_for_the_backward_pass():
    # What every further layer adds to a step's temporary memory: over codes no more than over floats, which are
    # arguments of the step and no part of it.
    growth, frozen = {}, {}
    for kind in ("none", "nf4"):
        temporary = {}
        for layers in (2, 6):
            model = replace(WIDE.model, intermediate=1024, layers=layers)
            config = replace(WIDE, model=model, quantize=kind)
            workload, mesh = make_workload(config), make_mesh(Mesh(data=1), jax.devices()[:1])
            begun = start(workload, config, mesh)
            batch = put_batch(workload.train_batches(1).batch(0, 0, range(1)), mesh)
            step = make_train_step(workload, begun.optimizer, begun.learning_rate, 0, mesh)
            memory = step.lower(begun.state, begun.frozen, batch).compile().memory_analysis()
            temporary[layers] = memory.temp_size_in_bytes
        growth[kind] = (temporary[6] - temporary[2]) / 4
        frozen[kind] = sum(leaf.nbytes for leaf in jax.tree.leaves(begun.frozen["params"]["layers"])) / 6
    assert frozen["nf4"] < 0.16 * frozen["none"]
    assert growth["nf4"] < growth["none"] + 0.1 * frozen["none"], (growth, frozen)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_meshes_agree(kind):
    config = replace(WIDE, quantize=kind)
    workload = make_workload(config)
    batch = workload.train_batches(8).batch(0, 0, range(8))
    losses = []
    for sizes in (Mesh(data=1), Mesh(data=2, fsdp=2, tensor=2)):
        mesh = make_mesh(sizes, jax.devices()[:1] if sizes == Mesh(data=1) else None)
        begun = start(workload, config, mesh)
        step = make_train_step(workload, begun.optimizer, begun.learning_rate, 0, mesh)
        state, frozen = begun.state, tables.flatten(begun.frozen)
        cut = {path for path, leaf in frozen.items() if not leaf.sharding.is_fully_replicated}
        assert bool(cut) == (sizes.fsdp > 1)
        assert sizes.fsdp == 1 or all(path in cut for path in frozen if path.endswith("codes"))
        for _ in range(2):
            state, metrics = step(state, begun.frozen, put_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_is_read_again_and_its_adapters_start_another(run, base, tmp_path):
    config, workdir = run
    metrics = open_run(workdir).evaluate()
    again = train(replace(config, train=replace(config.train, steps=3)), make_workload(config), workdir)
    assert again["last"]["step"] == 3
    assert set(metrics) == set(again["last"]["metrics"])
    adapters = leaves_for(config.adapter, str(workdir / "adapter.safetensors"), "", config.quantize)
    assert any(path.endswith("codes") for path in adapters)
    for source in (str(workdir / "adapter.safetensors"), str(workdir)):
        said = f"was trained with quantize = {config.quantize}, this run has none: say --quantize={config.quantize}"
        with pytest.raises(UserError, match=said):
            leaves_for(config.adapter, source, "", "none")


def test_merging_wants_to_be_asked_for_floats(run, tmp_path):
    config, workdir = run
    with pytest.raises(UserError, match=f"belong to a base in {config.quantize}.*--dequantize folds them"):
        merge_task(workdir, tmp_path / "merged", "ARC-Easy")
    assert not (tmp_path / "merged").exists()
    merge_task(workdir, tmp_path / "merged", "ARC-Easy", dequantize=True)
    plain, merged = llama(tmp_path / "merged")
    tokens, task_id = np.arange(12).reshape(2, 6), np.array([1, 1])
    expected = make_model(config).apply(open_run(workdir).variables(), tokens, task_id=task_id)
    np.testing.assert_allclose(plain.apply(merged, tokens), expected, atol=1e-5)
    model, variables, _ = read_model(workdir / "adapter.safetensors")
    np.testing.assert_allclose(model.apply(variables, tokens, task_id=task_id), expected, atol=1e-5)


def test_what_cannot_be_quantised_is_one_line():
    with pytest.raises(UserError, match=re.escape("do not divide hidden = 16; int8 can")):
        make_workload(replace(CONFIG, quantize="nf4"))
    with pytest.raises(UserError, match=re.escape("a base that trains (train_base) cannot be kept in nf4")):
        replace(WIDE, train_base=True).validate()
    with pytest.raises(UserError, match="quantize"):
        replace(WIDE, quantize="int4").validate()

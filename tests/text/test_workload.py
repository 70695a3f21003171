"""A language run as the engine sees it: losses of any layout of rows, devices, tasks, scoring, and what it leaves."""

import json
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from recording import recording
from small_text import CONFIG, TASKS

from mtlora_jax.config import Mesh
from mtlora_jax.convert import to_mtl_lora_reference
from mtlora_jax.convert.language_files import merge_task, read_model
from mtlora_jax.convert.peft import export_peft, import_peft
from mtlora_jax.engine import tables
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.state import start
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.errors import UserError
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.language.packing import Packed, lay_out
from mtlora_jax.text.config import FileData, TaskConfig
from mtlora_jax.text.examples import open_corpus
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.llama_weights import save_llama
from mtlora_jax.text.workload import make_workload

pytestmark = pytest.mark.slow


def filled(workload, seed=0):
    """Variables with every adapter leaf away from where it starts."""
    variables = workload.init(0)
    rng = np.random.default_rng(seed)
    lora = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables["lora"])
    return {**variables, "lora": lora}


def batch_of(config, rows, length):
    """Examples by row, padded or packed."""
    corpus = open_corpus(config, "train")
    batch = lay_out(corpus.tasks, [[corpus[i] for i in row] for row in rows], length, 0)
    if all(len(row) == 1 for row in rows):
        batch["task_id"] = corpus.task[[row[0] for row in rows]]
    return {name: value for name, value in batch.items() if name != "id"}


def loss_and_gradient(workload, variables, batch):
    def loss(lora):
        outputs, _ = workload.forward({**variables, "lora": lora}, batch, None)
        sums = workload.sums(outputs, batch)
        return workload.total({}, sums), sums

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["lora"])


@pytest.mark.parametrize("method", ["mtl_lora", "moelora", "lora", "dora", "multilora", "hydralora"])
def test_packed_and_padded_rows_give_the_same_loss_and_gradient(method):
    config = replace(CONFIG, adapter=replace(CONFIG.adapter, method=method))
    workload = make_workload(config)
    variables = filled(workload)
    examples = [0, 25, 50, 3, 70]
    padded = batch_of(config, [[i] for i in examples], 96)
    packed = batch_of(config, [[0, 25], [50, 3], [70]], 160)
    (a, of_a), grad_a = loss_and_gradient(workload, variables, padded)
    (b, of_b), grad_b = loss_and_gradient(workload, variables, packed)
    assert float(a) == pytest.approx(float(b), rel=1e-5)
    for task in TASKS:
        assert float(of_a[task]["tokens"]) == float(of_b[task]["tokens"]) > 0
        assert float(of_a[task]["nll"]) == pytest.approx(float(of_b[task]["nll"]), rel=1e-5)
    norm = float(optax.tree.norm(grad_a))
    assert norm > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * norm), grad_a, grad_b)


def test_one_task_s_loss_reaches_no_leaf_of_another():
    workload = make_workload(CONFIG)
    variables = filled(workload)
    batch = batch_of(CONFIG, [[0], [1]], 96)
    _, gradient = loss_and_gradient(workload, variables, batch)
    for path, leaf in tables.flatten(gradient).items():
        assert bool(np.any(leaf)) == (tables.owner((), path) in (None, "boolq")), path


@pytest.mark.parametrize("method", ["mtl_lora", "moelora", "dora", "multilora", "hydralora", "lora"])
def test_meshes_agree_with_one_device(method):
    config = replace(CONFIG, adapter=replace(CONFIG.adapter, method=method))
    workload = make_workload(config)
    batch = workload.train_batches(8).batch(0, 0, range(8))
    results = {}
    one, cube = Mesh(data=1), Mesh(data=2, fsdp=2, tensor=2)
    runs = [(one, 1), (cube, 1)]
    if method == "mtl_lora":
        runs += [(Mesh(data=8), 1), (Mesh(data=1, fsdp=8), 1), (one, 4), (cube, 2)]
    for sizes, parts in runs:
        devices = jax.devices()[:1] if sizes == one else None
        mesh = make_mesh(sizes, devices)
        begun = start(workload, config, mesh)
        optimizer = recording(begun.optimizer)
        step = make_train_step(workload, optimizer, begun.learning_rate, 0, mesh, parts)
        before = {path: leaf.sharding for path, leaf in tables.flatten(begun.state.trainable).items()}
        state = begun.state.replace(opt_state=optimizer.init(begun.state.trainable))
        after, metrics = step(state, begun.frozen, put_batch(batch, mesh))
        assert {path: leaf.sharding for path, leaf in tables.flatten(after.trainable).items()} == before
        frozen = tables.flatten(begun.frozen).values()
        assert any(not leaf.sharding.is_fully_replicated for leaf in frozen) == (sizes.fsdp > 1)
        results[sizes, parts] = float(metrics["loss"]), jax.device_get(after.opt_state["grads"])
    (loss, grads), *others = results.values()
    norm = float(optax.tree.norm(grads))
    assert norm > 1e-4
    for other, theirs in others:
        assert other == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * norm), theirs, grads)


def test_a_batch_in_parts_costs_no_second_forward_pass_and_the_memory_of_one():
    workload, mesh = make_workload(CONFIG), make_mesh(Mesh(data=1), jax.devices()[:1])
    begun = start(workload, CONFIG, mesh)
    batch = put_batch(workload.train_batches(8).batch(0, 0, range(8)), mesh)
    # The body of a loop is counted once.
    flops, memory = {}, {}
    for parts in (1, 4):
        step = make_train_step(workload, begun.optimizer, begun.learning_rate, 0, mesh, parts)
        compiled = step.lower(begun.state, begun.frozen, batch).compile()
        flops[parts] = parts * compiled.cost_analysis()["flops"]
        memory[parts] = compiled.memory_analysis().temp_size_in_bytes
    assert flops[4] < 1.05 * flops[1]
    assert memory[4] < 0.5 * memory[1]


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """A finished run on that base."""
    workdir = tmp_path_factory.mktemp("run") / "a"
    config = replace(CONFIG, init_from=str(base), tokenizer="", pack=160)
    results = train(config, make_workload(config), workdir)
    return config, workdir, results


def test_a_run_scores_every_task_and_leaves_its_adapters(run):
    config, workdir, results = run
    for moment in ("initial", "last", "best"):
        metrics = results[moment]["metrics"]
        assert set(metrics) == {*TASKS, "total"}
        assert metrics["total"]["average"] == pytest.approx(np.mean([metrics[task]["accuracy"] for task in TASKS]))
    trained, held_out = (config.data.rows(split, ("boolq",)) for split in ("train", "val"))
    most, _ = Counter(row.output for row in trained).most_common(1)[0]
    assert results["constant"]["boolq"]["accuracy"] == np.mean([row.output == most for row in held_out])
    assert results["last"]["metrics"]["total"]["loss"] < results["initial"]["metrics"]["total"]["loss"]
    assert (workdir / "adapter.safetensors").exists()
    assert results["about"] == {"forms": dict.fromkeys(TASKS, "instruction")}
    ids = [json.loads(line)["ids"] for line in (workdir / "metrics.jsonl").read_text().splitlines() if "ids" in line]
    assert np.array(ids[0]).max() < 72
    assert isinstance(make_workload(config).train_batches(8), Packed)


def test_an_adapter_file_needs_nothing_retyped(run, base, tmp_path):
    _, workdir, _ = run
    model, variables, found = read_model(workdir / "adapter.safetensors")
    again, from_run, _ = read_model(workdir)
    assert found == str(base)
    tokens = np.arange(12).reshape(2, 6)
    for task_id in (np.array([0, 2]), np.array([1, 1])):
        np.testing.assert_allclose(
            model.apply(variables, tokens, task_id=task_id), again.apply(from_run, tokens, task_id=task_id), atol=1e-6
        )
    assert to_mtl_lora_reference(model, variables)
    other = tmp_path / "other"
    save_llama(other, CONFIG.model, make_workload(CONFIG).init(4)["params"])
    with pytest.raises(UserError, match="was trained on another base"):
        read_model(workdir / "adapter.safetensors", str(other))
    with pytest.raises(UserError, match="is not an adapter file"):
        read_model(base / "model.safetensors")


def test_merged_and_exported_tasks_are_the_same_function(run, base, tmp_path):
    _, workdir, _ = run
    model, variables, _ = read_model(workdir)
    tokens = np.arange(12).reshape(2, 6)
    expected = model.apply(variables, tokens, task_id=np.array([1, 1]))
    merge_task(workdir, tmp_path / "merged", "ARC-Easy")
    from mtlora_jax.convert import llama

    plain, merged = llama(tmp_path / "merged")
    np.testing.assert_allclose(plain.apply(merged, tokens), expected, atol=1e-5)
    export_peft(tmp_path / "peft", model, variables, "ARC-Easy", str(base))
    lora, loaded = import_peft(tmp_path / "peft")
    np.testing.assert_allclose(lora.apply(loaded, tokens), expected, atol=1e-5)
    told = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert told["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    with pytest.raises(UserError, match="name one of boolq, ARC-Easy, winogrande, not None"):
        merge_task(workdir, tmp_path / "none", None)
    with pytest.raises(UserError, match="name one of"):
        export_peft(tmp_path / "none", model, variables, "piqa", "x")


@pytest.mark.parametrize("protocol", ["generate", "options"])
def test_whole_sets_are_scored_and_every_prediction_is_written(run, tmp_path, protocol):
    _, workdir, _ = run
    metrics = open_run(workdir).evaluate(protocol=protocol, predictions=tmp_path)
    assert set(metrics) == {*TASKS, "total"}
    for task in TASKS:
        lines = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        assert metrics[task]["accuracy"] == pytest.approx(np.mean([line["strict"] == line["answer"] for line in lines]))
    assert json.loads((workdir / f"evaluation_{protocol}.json").read_text())["protocol"] == protocol


def test_killed_and_resumed_is_not_having_been_killed(run, base, tmp_path):
    config, workdir, _ = run

    class Killed(Exception):
        pass

    def killing(self, step, state, *rest):
        save(self, step, state, *rest)
        self.wait()
        if step == 1:
            raise Killed

    save = Checkpoints.save
    short = replace(config, train=replace(config.train, checkpoint_every=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killing)
        with pytest.raises(Killed):
            train(short, make_workload(short), tmp_path)
    train(short, make_workload(short), tmp_path)
    (ours, theirs) = (read_model(folder)[1] for folder in (tmp_path, workdir))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# --- what a user can get wrong


def test_a_run_of_another_revision_is_said_to_be_one(run, tmp_path):
    told = json.loads((run[1] / "config.json").read_text())
    del told["sweep_keep"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"config.json: key sweep_keep is missing: another revision of mtlora_jax"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"chess": TaskConfig()}}, "tasks.chess is not known"),
        ({"template": "none"}, "template must be one of default, published"),
        ({"pack": 40}, "pack = 40 is shorter than cutoff = 80"),
        ({"buckets": (64, 32)}, "buckets must rise"),
        ({"buckets": (32,)}, "buckets must rise to cutoff = 80"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"adapter": None}, "nothing would train"),
        ({"adapter": Adapter(temperature=0.0)}, "temperature must be above 0"),
        ({"adapter": Adapter(method="moelora", rank=5)}, "8 experts do not divide rank 5"),
        ({"adapter": Adapter(method="hydralora", sites=("z_proj",))}, "'z_proj' matches no projection"),
        ({"model": LlamaSpec(heads=3)}, "cannot share"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **change).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": replace(CONFIG.model, vocab_size=100)}, "has 1280 tokens, the model embeds 100"),
        ({"tokenizer": ""}, "tokenizer: a model without a folder"),
        ({"tasks": {"sst2": TaskConfig()}}, "tasks.sst2: the micro-world has only"),
        ({"cutoff": 5}, "no example fits the cutoff of 5 tokens"),
        ({"data": FileData()}, "data.train is empty"),
    ],
)
def test_data_that_does_not_fit_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        open_corpus(replace(CONFIG, **change), "train")


def test_answers_that_a_cutoff_takes_are_reported(capsys):
    open_corpus(replace(CONFIG, cutoff=40), "train")
    assert "prompt cut" in capsys.readouterr().err

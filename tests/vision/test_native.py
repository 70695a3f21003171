"""Native resolution: mixed sizes in one pass give what one image at a time gives."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from opening import native
from PIL import Image

from mtlora_jax.config import Train
from mtlora_jax.engine.metrics import empty, merge, update
from mtlora_jax.images import transforms
from mtlora_jax.testing.published_layouts import SIZES, write_folder
from mtlora_jax.vision.config import FolderData, MixtureData, ScenesData, TaskConfig, VisionConfig
from mtlora_jax.vision.datasets.examples import rules
from mtlora_jax.vision.datasets.native_size import at_native_size
from mtlora_jax.vision.datasets.scenes import CLASSES, TASKS
from mtlora_jax.vision.heads import resize
from mtlora_jax.vision.native import evaluate_native, resize_to
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import VOID, boundary

SIDE, GRID = 32, 4


@pytest.mark.parametrize(("grid", "rows", "columns"), [(1, 1, 24), (4, 24, 24), (4, 13, 7), (6, 5, 3), (5, 1, 1)])
def test_resizing_on_a_canvas_is_resizing(grid, rows, columns):
    x = np.random.default_rng(rows).normal(size=(1, grid, grid, 2)).astype(np.float32)
    wanted = resize(jnp.asarray(x), rows, columns)
    found = resize_to(x, np.array([[rows, columns]], np.int32), (24, 32))
    np.testing.assert_allclose(found[:, :rows, :columns], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("own"), TASKS, train=1, val=3)
    return VisionConfig(
        backbone=SwinSpec(image_size=SIDE),
        tasks={task: TaskConfig(classes=CLASSES if task == "semseg" else ()) for task in TASKS},
        data=FolderData(root=str(root)),
        train=Train(batch_size=8, workers=0),
    )


def forward(config):
    """Stands for a network: logits of every task, made of the image's colours."""
    channels = {name: t.channels for name, t in config.make_tasks().items()}

    def run(variables, batch, key):
        cells = jnp.asarray(batch["image"], jnp.float32).reshape(-1, GRID, SIDE // GRID, GRID, SIDE // GRID, 3)
        colours = cells.mean((2, 4)) / 64 - 2
        return {name: jnp.tile(colours, (1, 1, 1, 3))[..., :C] for name, C in channels.items()}, {}

    return run


def one_by_one(config):
    """The same metrics the slow way."""
    tasks, source = config.make_tasks(), native(config, "val")
    states, edges = {name: empty() for name in tasks}, empty()
    for i in range(len(source)):
        image = transforms.evaluate(source[i], rules(tasks), SIDE)["image"][None]
        labels = transforms.settle(source[i], rules(tasks))["labels"]
        logits = forward(config)({}, {"image": image}, None)[0]
        for name, t in tasks.items():
            resized = resize(logits[name], *labels[name].shape[:2])
            states[name] = update(states[name], t.measure(resized, labels[name][None]), np.ones(1, bool))
        probability = np.asarray(tasks["edges"].decode(resize(logits["edges"], *labels["edges"].shape)))[0]
        edges = merge(edges, boundary.measure(probability, labels["edges"]))
    metrics = {name: t.compute(states[name]) for name, t in tasks.items()}
    metrics["edges"] |= boundary.compute(edges)
    return metrics


@pytest.mark.slow
def test_mixed_sizes_in_one_pass(config):
    wanted = one_by_one(config)
    for batch_size in (8, 16):
        sized = replace(config, train=replace(config.train, eval_batch_size=batch_size))
        found = evaluate_native(sized, forward(config), {}, with_boundary=True)
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_predictions_are_written_at_native_size(config, tmp_path):
    evaluate_native(config, forward(config), {}, tmp_path)
    tasks, source = config.make_tasks(), native(config, "val")
    for i in range(3):
        image = transforms.evaluate(source[i], rules(tasks), SIDE)["image"][None]
        logits = forward(config)({}, {"image": image}, None)[0]
        for name, t in tasks.items():
            if name == "depth":
                prediction = np.asarray(t.decode(resize(logits[name], *SIZES[i % 2])))[0]
                np.testing.assert_allclose(np.load(tmp_path / name / f"val {i}.npy"), prediction, atol=1e-5)
                continue
            written = np.asarray(Image.open(tmp_path / name / f"val {i}.png"))
            prediction = np.asarray(t.decode(resize(logits[name], *SIZES[i % 2])))[0]
            if name in ("semseg", "human_parts"):
                assert np.mean(written == prediction) > 0.999  # ties may break either way
                continue
            read = {
                "saliency": lambda x: x / 255,
                "edges": lambda x: x / 255,
                "normals": lambda x: x / 127.5 - 1,
            }[name](written.astype(np.float64))
            np.testing.assert_allclose(read, prediction, atol=0.006)
    assert len(list(tmp_path.rglob("*.*"))) == 3 * len(tasks)


def test_labels_lie_in_the_corner_of_a_void_canvas(config):
    source, canvas = at_native_size(config.data, "val", config.make_tasks(), SIDE)
    assert canvas == (64, 64)
    example = source[0]
    H, W = example["size"]
    assert SIZES[0] == (H, W)
    for label in example["labels"].values():
        assert np.all(label[H:] == VOID)
        assert np.all(label[:, W:] == VOID)
    assert example["image"].shape == (SIDE, SIDE, 3)
    assert example["name"] == "val 0"


def test_a_mixture_has_one_canvas(config):
    scenes = ScenesData(train_length=1, val_length=2)
    mixed = replace(config, data=MixtureData(sources={"own": config.data, "scenes": scenes}))
    source, canvas = at_native_size(mixed.data, "val", mixed.make_tasks(), SIDE)
    assert (len(source), canvas) == (5, (64, 64))
    assert source[3]["size"].tolist() == [SIDE, SIDE]
    assert source[3]["labels"]["depth"].shape == canvas
    assert [str(source[i]["name"]) for i in (0, 3)] == ["own/val 0", "scenes/0"]

"""Every file under configs/: it loads, validates, and trains what its docstring says by the published recipe."""

import math
import re
from pathlib import Path

import pytest

from mtlora_jax.cli import load_config
from mtlora_jax.config import from_json, to_json
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import tables
from mtlora_jax.engine.partition import MODEL_COLLECTIONS, split_variables
from mtlora_jax.engine.state import abstract_variables, weight_labels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
PUBLISHED = [name for name in RECIPES if name.startswith(("pascal_", "nyud_"))]
COUNTS = re.compile(r"^([\d,]+) of ([\d,]+) parameters train", re.MULTILINE)


def path(name):
    return ROOT / "configs" / f"{name}.py"


@pytest.mark.parametrize("name", RECIPES)
def test_it_loads_validates_and_survives_json(name):
    config = load_config(path(name))
    config.validate()
    assert config.name == name
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", RECIPES)
def test_its_docstring_gives_the_command(name):
    assert f"python train.py --config configs/{name}.py" in path(name).read_text()


@pytest.mark.parametrize("name", PUBLISHED + [name for name in RECIPES if name.startswith("vlbart_")])
def test_it_trains_what_it_says(name):
    stated = COUNTS.search(path(name).read_text())
    assert stated, "the docstring has to say how many parameters train"
    config = load_config(path(name))
    workload = workload_of(config)
    variables = abstract_variables(workload, config)
    trainable = split_variables(variables, weight_labels(workload, variables))[0]
    weights = {collection: variables[collection] for collection in MODEL_COLLECTIONS if collection in variables}
    assert [f"{tables.count(tree):,}" for tree in (trainable, weights)] == list(stated.groups())


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_follows_the_published_recipe(name):
    config = load_config(path(name))
    images = {"pascal": 4998, "nyud": 795}[name.split("_")[0]]
    epoch = images // 32
    optim, train, weights = config.optim, config.train, {n: t.weight for n, t in config.tasks.items()}
    assert (train.batch_size, train.steps, train.eval_every) == (32, 300 * epoch, 5 * epoch)
    assert images != 4998 or train.steps == 46_800
    assert (optim.warmup_steps, optim.schedule) == (20 * epoch, "cosine")
    assert math.isclose(optim.lr, 3.125e-5)
    assert math.isclose(optim.lr_warmup, 3.125e-8)
    assert math.isclose(optim.lr_min, 3.125e-7)
    assert (optim.weight_decay, optim.b1, optim.b2, optim.eps, optim.clip_norm) == (0.05, 0.9, 0.999, 1e-8, 5.0)
    assert (config.backbone.image_size, config.backbone.window, config.backbone.drop_path) == (448, 7, 0.2)
    published = {"semseg": 1, "depth": 1, "human_parts": 2, "saliency": 5, "normals": 10, "edges": 50}
    assert weights == {n: published[n] for n in weights}
    assert config.data.preset == "published"
    assert {t.head for t in config.tasks.values()} == {"hrnet"}
    if config.placement is not None:
        assert (config.placement.shared_scale, config.placement.dropout) == ((4.0,), (0.05,))


def test_image_text_recipes_follow_the_published_batches():
    config = load_config(path("vlbart_mtl_lora"))
    sizes = [int(config.train.batch_size * task.share) for task in config.tasks.values()]
    assert sizes == [512, 853, 170, 426]
    epoch = sum(-(-n // size) for n, size in zip((605_102, 1_075_062, 86_373, 566_747), sizes, strict=True))
    assert (config.train.steps, config.optim.warmup_steps) == (20 * epoch, int(0.03 * 20 * epoch))
    adapter = config.adapter
    assert (adapter.rank, adapter.scale, adapter.up_projections, adapter.temperature) == (64, 0.25, 2, 0.8)
    workload = workload_of(config)
    variables = abstract_variables(workload, config)
    labels = weight_labels(workload, variables)
    decayed = split_variables(variables, {p: "decay" if of == "decay" else "frozen" for p, of in labels.items()})[0]
    assert tables.count(decayed) == 7_502_880
    lora = variables["lora"]
    assert tables.count(lora) == 5_898_528
    sites = {leaf_path.rpartition("/")[0] for leaf_path in tables.paths(lora) if "/tasks/" not in leaf_path}
    assert len(sites) == 6

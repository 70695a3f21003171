"""A dense run starts from another one, with other tasks, classes and ranks; what is taken and what is drawn is said."""

from dataclasses import replace

import numpy as np
import pytest

from mtlora_jax.config import Train
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.mesh import make_mesh
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.state import place_weights
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError
from mtlora_jax.testing import tiny
from mtlora_jax.vision.config import ScenesData, TaskConfig
from mtlora_jax.vision.datasets.scenes import CLASSES
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.workload import make_workload

pytestmark = pytest.mark.slow

CONFIG = tiny.config(
    tasks={"semseg": TaskConfig(classes=CLASSES), "normals": TaskConfig()},
    data=ScenesData(train_length=8, val_length=8),
    train=Train(steps=1, batch_size=8, workers=0),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(CONFIG, make_workload(CONFIG), workdir)
    return workdir, flatten(open_run(workdir).variables())


def weights_of(config):
    found = place_weights(make_workload(config), config, make_mesh(config.mesh))
    return found.sources, flatten({**found.trainable, "mutable": found.mutable} | {"frozen": found.frozen})


def same(ours, theirs, part):
    """Whether leaves of a part of the model are another model's."""
    found = {path: leaf for path, leaf in ours.items() if part in path and path in theirs}
    assert found
    return all(np.array_equal(leaf, theirs[path]) for path, leaf in found.items())


def test_other_tasks_keep_what_they_share(run):
    workdir, theirs = run
    tasks = {"normals": TaskConfig(), "depth": TaskConfig()}
    placement = Placement(shared_rank=(2,), task_rank={"normals": (1,)})
    sources, ours = weights_of(replace(CONFIG, init_from=str(workdir), tasks=tasks, placement=placement))
    assert f"leaves from {workdir} at step 1" in sources
    assert "params/heads_depth" in sources.partition(" drawn")[2]
    assert "params/heads_normals" in sources.partition(" drawn")[0]
    for part in ("params/heads_normals", "shared_A", "tasks/normals"):
        assert same(ours, theirs, part)


def test_leaves_of_other_ranks_and_classes_are_drawn(run):
    workdir, _ = run
    fewer = {"semseg": TaskConfig(), "normals": TaskConfig()}
    wider = Placement(shared_rank=(4,), task_rank={"normals": (1,)})
    config = replace(CONFIG, init_from=f"{workdir}@best", tasks=fewer, placement=wider, data=tiny.config().data)
    sources, _ = weights_of(config)
    drawn = sources.partition(" drawn")[2]
    assert "params/heads_semseg (2)" in drawn
    assert "lora/backbone" in drawn


def test_adapters_under_another_scale_are_refused(run):
    workdir, _ = run
    other = replace(CONFIG, init_from=str(workdir), placement=replace(tiny.PLACEMENT, shared_scale=(1.0,)))
    with pytest.raises(UserError, match=r"has adapters of placement.shared_scale \(4.0,\), this run of \(1.0,\)"):
        weights_of(other)
    sources, _ = weights_of(replace(other, init_only="^(?!lora)"))
    assert "lora/backbone" in sources.partition(" drawn")[2]
    with pytest.raises(UserError, match="a pretrained model is taken whole"):
        weights_of(replace(CONFIG, init_from="scenes_nano", init_only="x"))

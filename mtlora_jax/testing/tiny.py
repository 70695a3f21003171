"""A dense multi-task run so small that a test can afford its train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Optim, Train
from mtlora_jax.vision.config import FolderData, TaskConfig, VisionConfig
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import VOID

TASKS = {"semseg": TaskConfig(classes=("wall", "floor", "cup")), "normals": TaskConfig(weight=10.0)}
PLACEMENT = Placement(shared_rank=(2,), task_rank={"normals": (1,)})
POSITIVE = ("scale", "var", "norm_scale")
"""Leaves that stay around 1."""


def config(**changes) -> VisionConfig:
    """Images of 32 pixels, two stages of which the first shifts its windows, two tasks, unequal ranks.

    Args:
      **changes: fields of `VisionConfig` that differ.
    """
    swin = SwinSpec(image_size=32, window=4, dim=8, depths=(2, 1), heads=(1, 2), drop_path=0.2)
    fields = {
        "name": "tiny",
        "backbone": swin,
        "placement": PLACEMENT,
        "tasks": TASKS,
        # Batches are made up; data of one's own takes any classes.
        "data": FolderData(),
        "decoder_channels": (2, 3),
        "head_width": 8,
        "train": Train(steps=10, batch_size=8),
        "optim": Optim(lr=1e-2),
    }
    return VisionConfig(**{**fields, **changes})


def batch(config: VisionConfig, size: int = 8, seed: int = 0) -> dict[str, Any]:
    """A host batch of noise with labels of every kind, a tenth of them void, and every label valid."""
    rng = np.random.default_rng(seed)
    side = config.backbone.image_size
    labels = {}
    for name, task in config.make_tasks().items():
        shape = (size, side, side, *task.label_shape)
        if task.label_shape:
            label = rng.normal(size=shape)
            label /= np.linalg.norm(label, axis=-1, keepdims=True)
        elif np.issubdtype(task.label_dtype, np.floating):
            label = rng.uniform(1, 10, shape)
        else:
            label = rng.integers(0, max(task.channels, 2), shape)
        label[rng.random(shape[:3]) < 0.1] = VOID
        labels[name] = label.astype(task.label_dtype)
    return {
        "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "labels": labels,
        "valid": {name: np.ones(size, bool) for name in labels},
    }


def filled(init: Callable[[], Any], seed: int = 0) -> Any:
    """Variables of the shapes that `init()` returns, full of noise, without drawing or compiling anything.

    Fresh variables hide much: an adapter's second factors start at 0, norms and statistics at 0 and 1.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        value = 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.exp(value) if path[-1].key in POSITIVE else value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init))


def noisy(tree: Any, scale: float = 0.1, seed: int = 0) -> Any:
    """The tree with noise on every floating leaf."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, tree)


def compiled(fn, *args):
    """`fn` (or its jitted form) compiled for such arguments without the optimisations that take most of the time."""
    lowered = (fn if hasattr(fn, "lower") else jax.jit(fn)).lower(*args)
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})

"""Dense multi-task vision as the engine sees it."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mtlora_jax.engine.borrowed import check_meaning, from_run, run_named
from mtlora_jax.engine.evaluate import constant_metrics
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.images.panels import panel, with_legend
from mtlora_jax.images.transforms import MEAN, STD, is_void
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples, check_examples
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.heads import resize
from mtlora_jax.vision.model import DenseModel, HeadSpec
from mtlora_jax.vision.native import evaluate_native
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.tasks.delta import delta_m, read_baseline
from mtlora_jax.vision.tasks.task import Task
from mtlora_jax.vision.trainable import owner_rows, table


def axes(placement: Placement | None) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Logical axes of the Swin's kernels and of their adapters; heads are small, and replicated."""
    kernels = (
        (r"/(qkv|fc1|reduction)/kernel$", ("embed", "inner")),
        (r"/(qkv|fc1)/bias$", ("inner",)),
        (r"/(proj|fc2)/kernel$", ("inner", "embed")),
    )
    adapters = (
        (r"/(qkv|fc1|reduction)/([^/]+/)*(shared_)?A$", ("embed", None)),
        (r"/(qkv|fc1|reduction)/([^/]+/)*(shared_)?B$", (None, "inner")),
        (r"/(proj|fc2)/([^/]+/)*(shared_)?A$", ("inner", None)),
        (r"/(proj|fc2)/([^/]+/)*(shared_)?B$", (None, "embed")),
    )
    return kernels if placement is None else kernels + adapters


NOTE = (
    "evaluation normalises heads by running statistics of about the last ten batches: while the learning rate is high "
    "these lag behind, and a loss early in training is worse than the model"
)
SHOWN = 3
"""Examples in the picture of all tasks."""


def normalise(images: jax.Array) -> jax.Array:
    """`[B, S, S, 3]` uint8 to ImageNet's zero mean and unit deviation. On the device: bytes travel, floats do not."""
    mean, std = (jnp.array(value, jnp.float32).reshape(1, 1, 1, 3) for value in (MEAN, STD))
    return (images.astype(jnp.float32) / 255 - mean) / std


def make_model(config: VisionConfig) -> DenseModel:
    tasks = config.make_tasks()
    return DenseModel(
        backbone=config.backbone,
        heads={name: HeadSpec(tasks[name].channels, t.head) for name, t in config.tasks.items()},
        placement=config.placement,
        decoder_channels=config.decoder_channels,
        shared_projection=config.shared_projection,
        head_width=config.head_width,
        dtype=jnp.dtype(config.dtype),
    )


def make_workload(config: VisionConfig) -> Workload:
    """The functions of a `VisionConfig`."""
    model, tasks, weights = make_model(config), config.make_tasks(), config.weights()
    side = config.backbone.image_size
    objectives = {
        name: Objective(weights[name], t.finish, t.compute, t.score, t.higher_is_better) for name, t in tasks.items()
    }

    def opened(split: str) -> Examples:
        return check_examples(
            config.data.open(split, tasks, side), f"the {split} split of {type(config.data).__name__}"
        )

    def measure(outputs: Mapping, batch: Mapping) -> dict:
        return {name: t.measure(resize(outputs[name], side), batch["labels"][name]) for name, t in tasks.items()}

    return Workload(
        objectives=objectives,
        abstract_batch=partial(abstract_batch, tasks, side),
        init=partial(init, model, side),
        load_base=partial(load_base, config),
        forward=partial(forward, model),
        sums=lambda outputs, batch: {
            name: t.sums(resize(outputs[name], side), batch["labels"][name], batch["valid"][name])
            for name, t in tasks.items()
        },
        measure=measure,
        table=table(config.placement, config.trainable),
        owners=owner_rows(tuple(tasks)),
        axes=axes(config.placement),
        train_batches=lambda batch_size: batches_of(opened("train"), batch_size),
        held_out=lambda batch_size: InOrder(opened("val"), batch_size),
        constant=lambda: constant_metrics(
            objectives, measure, partial(constant, tasks), opened("train"), opened("val")
        ),
        pictures=partial(pictures, tasks, side),
        notes=(NOTE,),
        overall=partial(overall, config),
        best="delta_m" if config.baselines else None,
        protocols={
            "native": partial(evaluate_native, config, partial(forward, model)),
            "boundary": partial(evaluate_native, config, partial(forward, model), with_boundary=True),
        },
    )


def abstract_batch(tasks: Mapping[str, Task], side: int, batch_size: int) -> dict:
    def array(*shape, dtype):
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return {
        "image": array(side, side, 3, dtype=np.uint8),
        "labels": {name: array(side, side, *t.label_shape, dtype=t.label_dtype) for name, t in tasks.items()},
        "valid": {name: array(dtype=np.bool_) for name in tasks},
    }


def init(model: DenseModel, side: int, seed: int) -> dict:
    """Fresh variables, for tracing: `engine.init.draw` evaluates the draws and nothing else."""
    base, adapters = jax.random.split(jax.random.key(seed))
    return model.init({"params": base, "lora": adapters}, jnp.zeros((1, side, side, 3)))


def load_base(config: VisionConfig) -> dict[str, np.ndarray] | None:
    """Leaves of the source by path: a backbone's, a whole converted model's, or another run's; None without one."""
    if config.init_from is None:
        return None
    if named := run_named(config.init_from):
        directory, step = named
        run = open_run(directory)
        leaves = from_run(run, step, config.init_only)
        theirs = getattr(run.config, "placement", None)
        if config.placement is not None and theirs is not None:
            check_meaning(leaves, settings(config.placement, theirs), settings(theirs, config.placement))
        return leaves
    if config.init_only:
        raise UserError("init_only says what is taken of another run; a pretrained model is taken whole")
    from mtlora_jax.vision.swin_weights import load_weights

    return load_weights(config.init_from, config.backbone)


def settings(placement: Placement, other: Placement) -> dict[str, Any]:
    """What adapters' leaves do not tell of what they compute; scales mean nothing beside leaves of another rank, which
    are not taken."""
    equal = (placement.shared_rank, placement.task_rank) == (other.shared_rank, other.task_rank)
    keys = ("mode", "task_base", "task_residual", *(("shared_scale", "task_scale") if equal else ()))
    return {f"placement.{key}": getattr(placement, key) for key in keys}


def forward(model: DenseModel, variables: Mapping, batch: Mapping, key: jax.Array | None):
    """Head-grid logits, and the batch statistics after this batch."""
    images = normalise(batch["image"])
    if key is None:
        return model.apply(variables, images, method="logits"), {}
    return model.apply(
        variables,
        images,
        train=True,
        valid=batch["valid"],
        method="logits",
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )


def constant(tasks: Mapping[str, Task], sample: Mapping) -> dict[str, np.ndarray]:
    """`{task: [1, 1, 1, channels]}`, what scores best everywhere on a batch of examples; says which tasks those teach
    nothing."""
    for name, t in tasks.items():
        label = sample["labels"][name][np.asarray(sample["valid"][name], bool)]
        known = ~is_void(label, t.void)
        if words := t.lacks(int(known.sum()), int((known & (label >= 0.5)).sum())):
            tqdm.write(f"{name}: {words}, in the first {len(sample['id'])} training examples", file=sys.stderr)
    return {
        name: t.constant(sample["labels"][name], sample["valid"][name]).reshape(1, 1, 1, -1)
        for name, t in tasks.items()
    }


def overall(config: VisionConfig, metrics: Mapping) -> dict[str, float]:
    """Δm, where there is something to measure it against."""
    tasks = config.make_tasks().values()
    return {"delta_m": delta_m(metrics, read_baseline(config.baselines, tasks), tasks)} if config.baselines else {}


def pictures(tasks: Mapping[str, Task], side: int, outputs: Mapping, batch: Mapping) -> dict[str, np.ndarray]:
    """`{task: image | truth | prediction}`, a row for each example of the batch, and `all` tasks of the first ones."""
    images = np.asarray(batch["image"])
    truth, predicted, legends = {}, {}, {}
    for name, t in tasks.items():
        labels, found = np.asarray(batch["labels"][name]), np.asarray(t.decode(resize(outputs[name], side)))
        truth[name], predicted[name] = [t.paint(label) for label in labels], [t.paint(p) for p in found]
        legends[name] = t.legend([*labels, *found])
    result = {
        name: with_legend(
            panel(list(zip(images, truth[name], predicted[name], strict=True)), columns=["image", "truth", name]),
            {name: legends[name]},
        )
        for name in tasks
    }
    rows = [
        [image, *(of[name][i] for name in tasks)]
        for i in range(min(SHOWN, len(images)))
        for image, of in ((images[i], truth), (None, predicted))
    ]
    sheet = panel(rows, columns=["image", *tasks], names=["truth", "prediction"] * (len(rows) // 2))
    return {**result, "all": with_legend(sheet, legends)}

"""A recipe of one's own: a class task, a regression and a data set that the package does not know."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Optim, Train
from mtlora_jax.images.transforms import LabelTransform
from mtlora_jax.vision.config import Data, FolderData, MixtureData, TaskConfig, VisionConfig
from mtlora_jax.vision.datasets.examples import NativeExamples
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks.classes import class_task
from mtlora_jax.vision.tasks.task import Task

# --- a class task


@dataclass(frozen=True)
class Materials(TaskConfig):
    """300 classes."""

    def make(self, name: str) -> Task:
        return class_task(name, 2.0, [f"material_{i}" for i in range(300)])


# --- a regression


def flow_sums(logits, label, valid):
    known = ~jnp.isnan(label) & valid[:, None, None, None]
    error = jnp.abs(logits.astype(jnp.float32) - jnp.where(known, label, 0.0))
    return {"error": jnp.where(known, error, 0.0).sum(), "numbers": known.sum(dtype=jnp.float32)}


def flow_finish(sums):
    return sums["error"] / jnp.maximum(sums["numbers"], 1.0)


def flow_measure(logits, label):
    known = ~jnp.isnan(label)
    error = jnp.where(known, jnp.abs(logits.astype(jnp.float32) - jnp.where(known, label, 0.0)), 0.0)
    return {"error": error.sum((1, 2, 3)), "numbers": known.sum((1, 2, 3))}


def flow_compute(totals):
    return {"mean_error": float(totals["error"] / max(totals["numbers"], 1))}


def flow_paint(flow):
    speed = np.nan_to_num(np.linalg.norm(np.asarray(flow, np.float32), axis=-1))
    return np.repeat(np.clip(speed / 4, 0, 255).astype(np.uint8)[..., None], 3, -1)


def flow_constant(labels, valid):
    return np.nanmean(labels[np.asarray(valid, bool)], axis=(0, 1, 2)).astype(np.float32)


def identity(logits):
    return logits


@dataclass(frozen=True)
class Flow(TaskConfig):
    """Two channels, in pixels; NaN where unknown, so that every number, 255 too, can be a label."""

    def make(self, name: str) -> Task:
        functions = flow_sums, flow_finish, flow_measure, flow_compute, "mean_error", False
        more = {"transform": LabelTransform(void=float("nan"))}
        return Task(name, 2, 0.01, (2,), np.float32, *functions, identity, flow_paint, flow_constant, **more)


# --- a data set


class Squares(NativeExamples):
    """A square on a plain ground, of a material and a velocity."""

    def __init__(self, length: int, first: int):
        self.length, self.first = length, first

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        rng = np.random.default_rng(self.first + index)
        image, materials = np.full((40, 48, 3), 90, np.uint8), np.zeros((40, 48), np.uint16)
        flow = np.full((40, 48, 2), np.nan, np.float32)
        y, x, material = *rng.integers(0, 24, 2), rng.integers(256, 300)
        image[y : y + 16, x : x + 16], materials[y : y + 16, x : x + 16] = material - 100, material
        flow[y : y + 16, x : x + 16] = rng.normal(size=2) * 300
        labels = {"materials": materials, "flow": flow}
        return {"image": image, "labels": labels, "valid": dict.fromkeys(labels, True), "id": np.int64(index)}


@dataclass(frozen=True)
class SquaresData(Data):
    """Squares without end."""

    train_length: int = 8

    def native(self, split, tasks, size):
        return Squares(self.train_length, 0) if split == "train" else Squares(2, 10**6)


def get_config() -> VisionConfig:
    return VisionConfig(
        name="own",
        backbone=SwinSpec(image_size=32, window=4, dim=8, depths=(1, 1), heads=(1, 2)),
        placement=Placement(shared_rank=(2,), dropout=(0.0,)),
        tasks={"materials": Materials(), "flow": Flow()},
        decoder_channels=(2, 2),
        data=MixtureData(sources={"squares": SquaresData(), "folder": FolderData()}, order="turns"),
        optim=Optim(lr=1e-3),
        train=Train(steps=3, batch_size=2, log_every=1, workers=1),
    )

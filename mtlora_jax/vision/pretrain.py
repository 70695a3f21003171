"""Pretraining a Swin backbone by classification: what is in a scene, how often, how it looks. Never dense labels.

This is where the embedded `scenes_nano` weights come from; a run writes its backbone to `backbone.safetensors`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mtlora_jax.config import Config
from mtlora_jax.engine import tables
from mtlora_jax.engine.evaluate import constant_metrics
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.images.panels import panel
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples
from mtlora_jax.vision.datasets.scenes import ATTRIBUTES, OBJECTS, Scenes
from mtlora_jax.vision.swin import Swin, SwinSpec, layer_norm
from mtlora_jax.vision.workload import normalise
from mtlora_jax.weights import safetensors


@dataclass(frozen=True)
class PretrainConfig(Config):
    """Classification of whole scenes.

    Attributes:
      backbone: the Swin's shape.
      dtype: compute dtype.
      train_length, val_length: images per split.
    """

    backbone: SwinSpec = field(default_factory=SwinSpec)
    dtype: Literal["float32", "bfloat16"] = "float32"
    train_length: int = 65536
    val_length: int = 512

    def validate(self) -> None:
        super().validate()
        if problem := self.backbone.problems():
            raise UserError(f"backbone: {problem}")


class Classifier(nn.Module):
    """A plain Swin, averaged over its last grid, and one linear map per attribute."""

    backbone: SwinSpec
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`[B, S, S, 3]` to `{attribute: [B, labels, classes]}`, float32."""
        x = Swin(self.backbone, dtype=self.dtype, name="backbone")(images, train=train)[-1]
        x = layer_norm("norm", jnp.float32)(x).mean((1, 2))
        return {name: nn.DenseGeneral((count(name), classes), name=name)(x) for name, classes in ATTRIBUTES.items()}


def count(attribute: str) -> int:
    """How many labels an attribute has: one for each kind of object, or one."""
    return len(OBJECTS) if attribute in ("presence", "count") else 1


@dataclass(frozen=True)
class Labelled(Examples):
    """Scenes with their attributes, every label valid."""

    scenes: Scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict:
        example = self.scenes[index]
        labels = {name: np.atleast_1d(label) for name, label in example["labels"].items()}
        return {**example, "labels": labels, "valid": {name: np.bool_(True) for name in ATTRIBUTES}}


def make_workload(config: PretrainConfig) -> Workload:
    model = Classifier(config.backbone, jnp.dtype(config.dtype))
    side = config.backbone.image_size
    objective = Objective(
        weight=1.0,
        finish=lambda sums: sums["nll"] / jnp.maximum(sums["labels"], 1),
        compute=lambda sums: {"accuracy": float(sums["right"] / max(sums["labels"], 1))},
        score="accuracy",
        higher_is_better=True,
    )

    objectives = dict.fromkeys(ATTRIBUTES, objective)

    def abstract_batch(batch_size: int) -> dict:
        array = partial(_array, batch_size)
        return {
            "image": array(side, side, 3, dtype=np.uint8),
            "labels": {name: array(count(name), dtype=np.uint8) for name in ATTRIBUTES},
            "valid": {name: array(dtype=np.bool_) for name in ATTRIBUTES},
        }

    def opened(split: str) -> Labelled:
        length = config.train_length if split == "train" else config.val_length
        return Labelled(Scenes(side, length=length, split=split, seed=config.seed, labels="attributes"))

    def init(seed: int) -> dict:
        return model.init(jax.random.key(seed), jnp.zeros((1, side, side, 3)))

    def forward(variables: Mapping, batch: Mapping, key: jax.Array | None):
        rngs = None if key is None else {"dropout": key}
        return model.apply(variables, normalise(batch["image"]), train=key is not None, rngs=rngs), {}

    return Workload(
        objectives=objectives,
        abstract_batch=abstract_batch,
        init=init,
        load_base=lambda: None,
        forward=forward,
        sums=_sums,
        measure=_measure,
        table=((r"^params/.*/(bias|scale)$", "no_decay"), (r"^params/", "decay")),
        train_batches=lambda batch_size: batches_of(opened("train"), batch_size),
        held_out=lambda batch_size: InOrder(opened("val"), batch_size),
        constant=lambda: constant_metrics(objectives, _measure, _constant, opened("train"), opened("val")),
        pictures=lambda outputs, batch: {"scenes": panel([list(np.asarray(batch["image"]))])},
        artifacts=_backbone,
    )


def _backbone(variables: Mapping, workdir: Path, meta: Mapping) -> Sequence[str]:
    """Writes the backbone alone, in half precision: what later runs start from."""
    leaves = tables.flatten(variables["params"]["backbone"])
    half = {path: np.asarray(leaf, np.float16) for path, leaf in leaves.items()}
    safetensors.write(workdir / "backbone.safetensors", half, meta)
    return ("backbone.safetensors",)


def _array(*shape: int, dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _sums(outputs: Mapping, batch: Mapping) -> dict:
    def one(logits, label, valid):
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, label.astype(jnp.int32))
        return {
            "nll": (nll * valid[:, None]).sum(),
            "labels": (valid.sum() * label.shape[1]).astype(jnp.float32),
        }

    return {name: one(outputs[name], batch["labels"][name], batch["valid"][name]) for name in outputs}


def _measure(outputs: Mapping, batch: Mapping) -> dict:
    def one(logits, label):
        right = (logits.argmax(-1) == label).sum(1)
        return {"right": right, "labels": jnp.full(right.shape, label.shape[1])}

    return {name: one(outputs[name], batch["labels"][name]) for name in outputs}


def _constant(sample: Mapping) -> dict:
    """Always the most frequent class."""
    return {
        name: np.stack([np.bincount(c, minlength=ATTRIBUTES[name]) for c in label.T])[None].astype(np.float32)
        for name, label in sample["labels"].items()
    }

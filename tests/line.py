"""A domain of one task that trains in a moment: y = 2 x, by one weight, beside a frozen one that is drawn."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Config, Train
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples


@dataclass(frozen=True)
class LineData:
    """Points; those named in the file `broken` of the folder cannot be read, those in `nan` have no finite label."""

    root: str = ""


@dataclass(frozen=True)
class LineConfig(Config):
    train: Train = field(default_factory=lambda: Train(steps=3, batch_size=8, workers=0))
    data: LineData = field(default_factory=LineData)


@dataclass(frozen=True)
class Points(Examples):
    root: str = ""
    training: bool = True

    def __len__(self):
        return 64

    def named(self, file: str) -> list[int]:
        path = Path(self.root, file)
        return [int(word) for word in path.read_text().split()] if self.training and path.is_file() else []

    def __getitem__(self, index):
        if index in self.named("broken"):
            raise UserError(f"{self.source(index)}: cannot be decoded; fetch it again")
        x = np.float32(index / 32 - 1)
        y = np.float32(np.nan) if index in self.named("nan") else 2 * x
        return {"x": x, "labels": {"line": y}, "valid": {"line": np.bool_(True)}, "id": np.int64(index)}

    def source(self, index):
        return f"{self.root}/{index}.png"


def make_workload(config: LineConfig) -> Workload:
    def error(outputs, batch):
        return jnp.square(outputs - batch["labels"]["line"])

    def number(B, dtype=np.float32):
        return jax.ShapeDtypeStruct((B,), dtype)

    return Workload(
        objectives={
            "line": Objective(
                1.0, lambda s: s["error"] / s["n"], lambda s: {"error": float(s["e"] / s["n"])}, "error", False
            )
        },
        abstract_batch=lambda B: {
            "x": number(B),
            "labels": {"line": number(B)},
            "valid": {"line": number(B, np.bool_)},
        },
        init=lambda seed: {
            "params": {
                "w": jnp.zeros(()),
                "unread": jnp.zeros(3),
                "base": jax.random.normal(jax.random.key(seed), (2,)),
            }
        },
        load_base=lambda: None,
        forward=lambda variables, batch, key: (
            variables["params"]["w"] * batch["x"] + 0 * variables["params"]["base"].sum(),
            {},
        ),
        sums=lambda outputs, batch: {"line": {"error": error(outputs, batch).sum(), "n": jnp.float32(len(batch["x"]))}},
        measure=lambda outputs, batch: {"line": {"e": error(outputs, batch), "n": jnp.ones_like(batch["x"])}},
        table=(("^params/base", "frozen"), ("^params/", "decay")),
        train_batches=lambda B: batches_of(Points(config.data.root), B),
        held_out=lambda B: InOrder(Points(config.data.root, training=False), B),
        constant=lambda: {"line": {"error": 1.4}},
    )

"""The table of domains: configs find their workload, and a domain from outside trains like the package's own."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlora_jax import domains
from mtlora_jax.config import Config, Train
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import open_run
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples
from mtlora_jax.vision.config import VisionConfig


@dataclass(frozen=True)
class LineConfig(Config):
    """A domain of one task: y = 2 x + noise, by one weight."""

    train: Train = field(default_factory=lambda: Train(steps=3, batch_size=8, workers=0))


class Points(Examples):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        x = np.float32(index / 8 - 1)
        return {"x": x, "y": 2 * x, "valid": {"line": np.bool_(True)}, "id": np.int64(index)}


def make_workload(config: LineConfig) -> Workload:
    def sums(outputs, batch):
        return {"line": {"error": jnp.square(outputs - batch["y"]).sum(), "n": jnp.float32(len(batch["y"]))}}

    return Workload(
        objectives={
            "line": Objective(
                1.0, lambda s: s["error"] / s["n"], lambda s: {"error": float(s["e"] / s["n"])}, "error", False
            )
        },
        abstract_batch=lambda B: {
            **{name: jax.ShapeDtypeStruct((B,), np.float32) for name in "xy"},
            "valid": {"line": jax.ShapeDtypeStruct((B,), np.bool_)},
        },
        init=lambda seed: {"params": {"w": jnp.zeros(()), "unread": jnp.zeros(3)}},
        load_base=lambda: None,
        forward=lambda variables, batch, key: (variables["params"]["w"] * batch["x"], {}),
        sums=sums,
        measure=lambda outputs, batch: {
            "line": {"e": jnp.square(outputs - batch["y"]), "n": jnp.ones_like(batch["y"])}
        },
        table=(("^params/", "decay"),),
        train_batches=lambda B: batches_of(Points(), B),
        held_out=lambda B: InOrder(Points(), B),
        constant=lambda: {"line": {"error": 1.4}},
    )


def test_a_domain_from_outside_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setitem(domains.DOMAINS, f"{__name__}:LineConfig", __name__)
    config = LineConfig()
    results = train(config, domains.workload_of(config), tmp_path / "run")
    assert results["last"]["metrics"]["line"]["error"] < results["initial"]["metrics"]["line"]["error"]
    assert list(results["best"]["score"]) == ["mean score"]
    assert results["best"]["score"]["mean score"] == -results["best"]["metrics"]["line"]["error"]
    run = open_run(tmp_path / "run")
    assert run.evaluate("best") == results["best"]["metrics"]
    assert not np.any(run.variables()["params"]["unread"])


@dataclass(frozen=True)
class MyVision(VisionConfig):
    pass


def test_subclasses_belong_to_their_domain_and_a_bare_config_to_none():
    assert domains.domain_of(MyVision()) == "mtlora_jax.vision.workload"
    with pytest.raises(UserError, match=r"Config is the config of no domain: .* returns one of VisionConfig"):
        domains.workload_of(Config())

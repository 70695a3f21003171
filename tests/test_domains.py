"""The table of domains: configs find their workload, and a domain from outside trains like the package's own."""

from dataclasses import dataclass

import line
import numpy as np
import pytest

from mtlora_jax import domains
from mtlora_jax.config import Config
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import open_run
from mtlora_jax.errors import UserError
from mtlora_jax.vision.config import VisionConfig


def test_a_domain_from_outside_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setitem(domains.DOMAINS, "line:LineConfig", "line")
    config = line.LineConfig()
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

"""A recipe of one's own: an adapter method that the package does not know."""

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

from configs.text_smoke import get_config as parent
from mtlora_jax.adapters import METHODS, Spec, defaults
from mtlora_jax.adapters.leaf import Leaf, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import updated
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import TextConfig

# --- an adapter method


@dataclass(frozen=True)
class Halved(Spec):
    """LoRA at half its scale."""

    method: ClassVar[str] = "halved"
    rank: int = 2


def declare(spec, d_in, d_out):
    return {"A": Leaf((d_in, spec.rank), fan_in_uniform), "B": Leaf((spec.rank, d_out), zeros)}


def apply(spec, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    return updated(kernel, bias, *export(spec, leaves, kernel), x, 0.0, None)


def export(spec, leaves, kernel, task=None):
    return leaves["A"], leaves["B"] / 2


init, delta, merge = defaults(declare, export)
METHODS["halved"] = sys.modules[__name__]


@dataclass(frozen=True)
class HalvedAdapter(Adapter):
    def spec(self, tasks):
        return Halved(self.rank)


# --- the run


def get_config() -> TextConfig:
    config = parent()
    train = replace(config.train, steps=2, eval_every=2, batch_size=4)
    return replace(config, name="own_text", adapter=HalvedAdapter(rank=2), train=train)

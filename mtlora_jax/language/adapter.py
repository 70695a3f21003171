"""Which adapter method a run uses, with the options of all of them: one override changes the method."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mtlora_jax.adapters import DoRA, HydraLoRA, LoRA, MoELoRA, MTLLoRA, MultiLoRA, Spec

Method = Literal["mtl_lora", "lora", "dora", "multilora", "moelora", "hydralora"]


@dataclass(frozen=True)
class Adapter:
    """One method, at every site that a regex finds. A method ignores options that it does not have.

    A subclass in a recipe of your own, whose `spec` gives a method of your own, is found again by every command.

    Attributes:
      method: the method's name.
      rank: R; in MoELoRA the rank of all experts together.
      alpha: the update is scaled by `alpha / rank`.
      rank_stabilised: scale by `alpha / sqrt(rank)` instead.
      dropout: probability of dropping an entry of the update's input while training.
      sites: regexes of the projections that are adapted: `self_attn/q_proj`, ..., `mlp/down_proj`.
      up_projections: MTL-LoRA's up-projections, MultiLoRA's parallel updates, HydraLoRA's heads.
      temperature: MTL-LoRA's, which divides the mixing logits.
      diagonal: MTL-LoRA's task transforms are diagonal.
      experts, embedding: MoELoRA's experts, and the width of its task embeddings.
      dora_simple: DoRA's norm counts as a constant in the backward pass; else it is differentiated.
    """

    method: Method = "mtl_lora"
    rank: int = 8
    alpha: float = 16.0
    rank_stabilised: bool = False
    dropout: float = 0.05
    sites: tuple[str, ...] = ("self_attn/[qkvo]_proj",)
    up_projections: int = 3
    temperature: float = 0.1
    diagonal: bool = False
    experts: int = 8
    embedding: int = 64
    dora_simple: bool = True

    @property
    def scale(self) -> float:
        rank = max(self.rank, 1)  # DoRA's 0 has no update to scale; other methods refuse it
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def spec(self, tasks: tuple[str, ...]) -> Spec:
        """The method's hyper-parameters, for these tasks. Raises ValueError for values out of range."""
        return SPECS[self.method](self, tasks)

    def table(self, tasks: tuple[str, ...]) -> tuple[tuple[str, Spec], ...]:
        """(regex, spec) rows, as models take them."""
        return tuple((site, self.spec(tasks)) for site in self.sites)


SPECS: dict[str, Callable[[Adapter, tuple[str, ...]], Spec]] = {
    "mtl_lora": lambda a, tasks: MTLLoRA(
        tasks, a.rank, a.scale, a.up_projections, a.temperature, a.diagonal, a.dropout
    ),
    "lora": lambda a, tasks: LoRA(a.rank, a.scale, a.dropout),
    "dora": lambda a, tasks: DoRA(a.rank, a.scale, simple=a.dora_simple, dropout=a.dropout),
    "multilora": lambda a, tasks: MultiLoRA(a.rank, a.scale, a.up_projections, a.dropout),
    "moelora": lambda a, tasks: MoELoRA(tasks, a.rank, a.experts, a.embedding, a.scale, a.dropout),
    "hydralora": lambda a, tasks: HydraLoRA(a.rank, a.up_projections, a.scale, a.dropout),
}


def settings(adapter: Adapter, ranks: bool = True) -> dict[str, Any]:
    """What adapters' leaves do not tell of what they compute, by keys of the config.

    Args:
      ranks: tell the scale too; it means nothing beside leaves of another rank, which are not taken.
    """
    keys = ("method", *({"mtl_lora": ("temperature", "diagonal")}.get(adapter.method, ())))
    found = {f"adapter.{key}": getattr(adapter, key) for key in keys}
    return found | ({"adapter.alpha / adapter.rank": adapter.scale} if ranks else {})

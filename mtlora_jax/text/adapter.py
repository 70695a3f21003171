"""Which adapter method a run uses, with the options of all of them: one override changes the method."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mtlora_jax.adapters import DoRA, HydraLoRA, LoRA, MoELoRA, MTLLoRA, MultiLoRA, Spec

Method = Literal["mtl_lora", "lora", "dora", "multilora", "moelora", "hydralora"]


@dataclass(frozen=True)
class Adapter:
    """One method, at every site that a regex finds. A method passes over options that it does not have.

    Attributes:
      method: its name.
      rank: R; of MoELoRA the rank of all experts together.
      alpha: the update is scaled by `alpha / rank`.
      rank_stabilised: scale by `alpha / sqrt(rank)` instead.
      dropout: of the update's input while training.
      sites: regexes of the projections that are adapted: `self_attn/q_proj`, ..., `mlp/down_proj`.
      up_projections: MTL-LoRA's up-projections, MultiLoRA's parallel updates, HydraLoRA's heads.
      temperature: of MTL-LoRA's mixture.
      diagonal: MTL-LoRA's task transforms are diagonal.
      experts, embedding: of MoELoRA, and the width of its task embeddings.
      exact: DoRA's norm is differentiated.
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
    exact: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def spec(self, tasks: tuple[str, ...]) -> Spec:
        """The method's hyper-parameters, for these tasks. Raises ValueError for values out of range."""
        return SPECS[self.method](self, tasks)

    def table(self, tasks: tuple[str, ...]) -> tuple[tuple[str, Spec], ...]:
        """(regex, spec) rows, as `text.llama.Llama` takes them."""
        return tuple((site, self.spec(tasks)) for site in self.sites)


SPECS: dict[str, Callable[[Adapter, tuple[str, ...]], Spec]] = {
    "mtl_lora": lambda a, tasks: MTLLoRA(
        tasks, a.rank, a.scale, a.up_projections, a.temperature, a.diagonal, a.dropout
    ),
    "lora": lambda a, tasks: LoRA(a.rank, a.scale, a.dropout),
    "dora": lambda a, tasks: DoRA(a.rank, a.scale, simple=not a.exact, dropout=a.dropout),
    "multilora": lambda a, tasks: MultiLoRA(a.rank, a.scale, a.up_projections, a.dropout),
    "moelora": lambda a, tasks: MoELoRA(tasks, a.rank, a.experts, a.embedding, a.scale, a.dropout),
    "hydralora": lambda a, tasks: HydraLoRA(a.rank, a.up_projections, a.scale, a.dropout),
}

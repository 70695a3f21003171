"""Several data sets at once, each with labels of its own tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtlora_jax.errors import UserError
from mtlora_jax.input.mixture import Mixture, shares_of
from mtlora_jax.vision.datasets.data import Data, Tasks
from mtlora_jax.vision.datasets.examples import Completed


@dataclass(frozen=True)
class MixtureData(Data):
    """Several data sets; see `input.mixture` for their order.

    Attributes:
      sources: data sets by names of your own. Each augments its examples its own way.
      weights: `{name: share}` of the examples trained on; empty goes by lengths and temperature.
      temperature: shares go by length ** (1 / temperature): 1 by size, the larger the more even.
      order: `shuffled` by shares, or `turns`, one data set after the other.
    """

    sources: Mapping[str, Data] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    order: Literal["shuffled", "turns"] = "shuffled"

    def check(self, tasks: Tasks) -> None:
        """Raises UserError for a mixture of nothing, weights that do not fit, or what a set of it complains of."""
        if not self.sources:
            raise UserError("data.sources is empty: a mixture needs at least one data set")
        if self.temperature <= 0:
            raise UserError(f"data.temperature must be positive, not {self.temperature}")
        if self.weights and (set(self.weights) != set(self.sources) or min(self.weights.values()) <= 0):
            raise UserError(
                f"data.weights needs a weight above 0 for each of {', '.join(self.sources)}, or none at all"
            )
        for name, source in self.sources.items():
            try:
                source.check(tasks)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None

    def open(self, split: str, tasks: Tasks, size: int) -> Mixture:
        sets = tuple(
            Completed(source.open(split, source.labelled(tasks), size), tasks, size) for source in self.sources.values()
        )
        if self.order == "turns":
            return Mixture(sets)
        weights = [self.weights[name] for name in self.sources] if self.weights else None
        return Mixture(sets, shares_of([len(of) for of in sets], weights, self.temperature))

"""Slots along one axis: their variables, and an optimizer for each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtlora_jax.config import Config
from mtlora_jax.engine.optim import make_optimizer, schedule
from mtlora_jax.engine.partition import split_variables
from mtlora_jax.engine.state import optimizer_labels, weight_labels
from mtlora_jax.engine.sweep.slots import ALONG, Slot
from mtlora_jax.engine.workload import Workload


@dataclass(frozen=True)
class Group:
    """Slots that lie along one axis `[S]`.

    Attributes:
      slots: them.
      workload: theirs, which knows of no seed and no learning rate.
      seed: of the base, where it is drawn.
    """

    slots: tuple[Slot, ...]
    workload: Workload
    seed: int

    @cached_property
    def shapes(self) -> dict:
        return jax.eval_shape(lambda: self.workload.init(self.seed))

    @cached_property
    def labels(self) -> dict[str, str]:
        """`{path: label}` of one slot's weights."""
        return weight_labels(self.workload, self.shapes)

    @property
    def configs(self) -> tuple[Config, ...]:
        return tuple(slot.config for slot in self.slots)

    def init(self) -> tuple[dict, dict, dict]:
        """`(trainable, frozen, mutable)`; all but the frozen leaves `[S, ...]`."""
        seeds = np.array([config.seed for config in self.configs], np.int32)
        trainable, _, mutable = split_variables(jax.vmap(self.workload.init)(seeds), self.labels)
        _, frozen, _ = split_variables(self.workload.init(self.seed), self.labels)
        return trainable, frozen, mutable

    def optimizer(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """One for each slot, over the leading axis of all leaves."""
        trainable, _, _ = split_variables(self.shapes, self.labels)
        labels = optimizer_labels(self.workload, trainable, self.labels)
        optim = self.configs[0].optim
        varied = [key.removeprefix("optim.") for key in ALONG if key.startswith("optim.")]
        rates = {key: np.array([getattr(c.optim, key) for c in self.configs], np.float32) for key in varied}

        def one(rates: Mapping) -> optax.GradientTransformationExtraArgs:
            own = replace(optim, **rates)
            return make_optimizer(own, schedule(own, steps), labels)

        def update(updates, state, params, *, present):
            def step(rates, updates, state, params, present):
                return one(rates).update(updates, state, params, present=present)

            return jax.vmap(step)(rates, updates, state, params, present)

        return optax.GradientTransformationExtraArgs(
            lambda params: jax.vmap(lambda rates, params: one(rates).init(params))(rates, params), update
        )


def chosen(which: jax.Array, a: Any, b: Any) -> Any:
    """Slot by slot `a` where `which`, `[S]` bool, else `b`."""
    return jax.tree.map(lambda x, y: jnp.where(which.reshape(-1, *(1,) * (x.ndim - 1)), x, y), a, b)

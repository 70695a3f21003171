"""The runs of a sweep: which there are, what they are called, and which may be computed together."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtlora_jax.config import Config, from_json, to_json
from mtlora_jax.errors import UserError

MAY_SWEEP = ("seed", "optim.", "adapter.", "placement.")
"""What slots may differ in, by the beginning of its key: never in base, data or length."""
ALONG = ("seed", "optim.lr", "optim.lr_warmup", "optim.lr_min")
"""What slots that lie along one axis may differ in."""
SLOTS = "slots"
"""Where the slots' leaves lie in a collection, and their files in the work directory."""


@dataclass(frozen=True)
class Slot:
    """One run of a sweep.

    Attributes:
      name: what it differs in, `lr=0.001,seed=0`.
      run: that without the seed: runs of other seeds are the same run again.
      config: its own.
    """

    name: str
    run: str
    config: Config


def slots_of(config: Config) -> tuple[Slot, ...]:
    """The runs of a sweep: every value of the first key with every value of the next.

    Raises:
      UserError: a key that runs cannot differ in, no value or twice the same, or a config that is not valid.
    """
    for key, values in config.sweep.items():
        if not key.startswith(MAY_SWEEP):
            raise UserError(
                f"sweep.{key}: the runs of a sweep share one base, one data set and one length; they may differ in "
                "seed, optim.* and adapter.*"
            )
        if not values or len(set(values)) < len(values):
            raise UserError(f"sweep.{key} needs values that differ, not {values}")
    last = [key.rpartition(".")[2] for key in config.sweep]
    names = [key if last.count(short) > 1 else short for key, short in zip(config.sweep, last, strict=True)]
    slots = []
    for values in itertools.product(*config.sweep.values()):
        told = to_json(replace(config, sweep={}))
        for key, value in zip(config.sweep, values, strict=True):
            _put(told, key, value)
        slot = from_json(told)
        slot.validate()
        said = {name: f"{name}={value}" for name, value in zip(names, values, strict=True)}
        slots.append(Slot(",".join(said.values()), ",".join(said[n] for n in said if n != "seed"), slot))
    return tuple(slots)


def _put(told: Any, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        told = told.get(group) if isinstance(told, Mapping) else None
    if not isinstance(told, Mapping) or last not in told:
        raise UserError(f"sweep.{key}: this config has no {key}")
    told[last] = value


def alike(slots: Sequence[Slot]) -> list[tuple[Slot, ...]]:
    """The slots in groups that one program computes."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        told = to_json(slot.config)
        for key in ALONG:
            _put(told, key, None)
        groups.setdefault(str(told), []).append(slot)
    return [tuple(group) for group in groups.values()]


def best_of(scores: Mapping[str, float]) -> tuple[str, float]:
    """The slot of the highest score, and that; NaN is never it."""
    name = max(scores, key=lambda slot: scores[slot] if math.isfinite(scores[slot]) else -math.inf)
    return name, scores[name]

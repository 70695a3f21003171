"""Starting from another run: which of its leaves a model takes, and which it draws anew."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.config import is_run_config
from mtlora_jax.engine import tables
from mtlora_jax.engine.claim import CONFIG
from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.listing import listed
from mtlora_jax.mirrors import opened
from mtlora_jax.storage import exists, fetched
from mtlora_jax.weights.lazy import Lazy


class Borrowed(Lazy):
    """`{path: array}` of a model of its own; one that starts from it takes the leaves whose path and shape it shares.

    Args:
      leaves: by path. A mapping that reads a leaf when it is asked for also tells its `shape(path)`.
      where: what messages call the model.
      only: a regex; leaves whose path it is not found in are not taken.

    Raises:
      UserError: the regex is none.
    """

    def __init__(self, leaves: Mapping[str, Any], where: str, only: str = ""):
        try:
            wanted = re.compile(only)
        except re.error as error:
            raise UserError(f"init_only: {only!r} is not a regular expression: {error}") from None
        self._leaves, self.where = leaves, where
        self._paths = {path: None for path in leaves if wanted.search(path)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, path: str) -> np.ndarray:
        if path not in self._paths:
            raise KeyError(path)
        return np.asarray(self._leaves[path])

    def shape(self, path: str) -> tuple[int, ...]:
        return self._leaves.shape(path) if hasattr(self._leaves, "shape") else np.shape(self._leaves[path])

    def fitting(self, shapes: Mapping[str, Any]) -> "Borrowed":
        """The leaves that a model of these shapes takes. Raises UserError where there is none."""
        found = Borrowed(self._leaves, self.where)
        found._paths = {p: None for p in self if p in shapes and self.shape(p) == shapes[p].shape}
        if not found._paths:
            raise UserError(f"{self.where} has no leaf in common with this model")
        return found


def check_meaning(leaves: Borrowed, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raises UserError where adapters would be taken under settings that no leaf holds, such as their scale, other than
    those they were trained under: they would compute another function.

    Args:
      ours, theirs: the settings, by their keys in the config.
    """
    if not any(path.startswith("lora/") for path in leaves):
        return
    if key := next((key for key in ours if ours[key] != theirs[key]), None):
        raise UserError(
            f"{leaves.where} has adapters of {key} {theirs[key]}, this run of {ours[key]}: say the same, or leave its "
            "adapters with --init_only='^(?!lora)'"
        )


def groups(paths: Iterable[str]) -> str:
    """Leaves by what they are part of, in words: `params/heads_semseg (6), lora/backbone (40)`."""
    counts: dict[str, int] = {}
    for path in paths:
        group = "/".join(path.split("/")[:2])
        counts[group] = counts.get(group, 0) + 1
    return listed((f"{group} ({count})" for group, count in counts.items()), most=12)


def run_named(source: str | None) -> tuple[Path, str] | None:
    """The work directory and the step that an `init_from` names, `DIR` or `DIR@best`; None where it names no run."""
    if source is None:
        return None
    for directory, step in ((source, "last"), source.rpartition("@")[::2]):
        if directory and exists(path := f"{directory}/{CONFIG}"):
            return (opened(directory), step) if is_run_config(read_json(fetched(path))) else None
    return None


def from_run(run: Any, step: str, only: str) -> Borrowed:
    """The leaves of a run at a step; see `engine.run.Run`. Raises UserError for a sweep, which is many."""
    if run.config.sweep:
        raise UserError(f"{run} holds a sweep: start from a slot's adapter.safetensors in {run}/slots")
    return Borrowed(tables.flatten(run.variables(step)), f"{run} at step {run.step(step)}", only)

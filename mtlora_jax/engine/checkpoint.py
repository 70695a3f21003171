"""Checkpoints of a run: the newest few and the best, checked leaf by leaf when they are read back.

Orbax writes them, on a background thread and into a directory that gets its name when it is whole. What
it does not do is notice a changed byte, say which leaf belongs to another model, or go back to an older
checkpoint: this does.
"""

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from mtlora_jax.engine import hosts
from mtlora_jax.engine.tables import flatten
from mtlora_jax.errors import UserError, of_the_system, one_line
from mtlora_jax.files import finite, here
from mtlora_jax.mirrors import home
from mtlora_jax.storage import is_remote
from mtlora_jax.weights.digest import digest

META = "meta"
STRAGGLING = 0.3
"""Seconds that reads and writes may outlive one of them that failed."""

State = Mapping[str, Any]


class Restored(NamedTuple):
    """A checkpoint read back: its step, the items asked for, and the `meta` it was saved with."""

    step: int
    state: dict[str, Any]
    meta: dict


class Unreadable(Exception):
    """A checkpoint is damaged; an older one may not be."""


class Checkpoints:
    """The checkpoints below one directory.

    Args:
      directory: where they live, `<directory>/<step>/<item>/...`.
      keep: how many of the newest stay; the one of the highest score stays as well.
      read_only: neither makes the directory nor tidies up in it, so another process may be writing.
      say: takes one-line notices.
    """

    def __init__(
        self,
        directory: str | Path | epath.Path,
        keep: int = 2,
        read_only: bool = False,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ):
        self.directory = epath.Path(directory if is_remote(str(directory)) else here(directory).absolute())
        self._say = say
        self._broken: list[int] = []
        self._by: str | None = None
        self._manager = None
        if read_only and not self.directory.is_dir():
            return
        preservation = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=preservation,
                best_fn=self._rank,
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )
        self.best()  # by which metric: before the next save, that of the newest

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return sorted(set(self._manager.all_steps()) - set(self._broken)) if self._manager else []

    def written(self) -> list[int]:
        """`steps`, of what has been written when nothing more is under way; those that failed are not among them."""
        with suppress(UserError):
            self.wait()
        return self.steps()

    def best(self) -> int | None:
        """The step with the highest score, the latest of equals; None where nothing was scored. Scores of another
        metric than the newest one's do not compare."""
        found = {step: self._manager.metrics(step) or {} for step in self.steps()}
        self._by = next((by for step in reversed(found) if (by := found[step].get("by"))), self._by)
        scores = {step: self._rank(metrics) for step, metrics in found.items()}
        return max(reversed(scores), key=scores.get) if max(scores.values(), default=-math.inf) > -math.inf else None

    def _rank(self, metrics: Mapping | None) -> float:
        score = (metrics or {}).get("score")
        counts = score is not None and math.isfinite(score) and metrics["by"] == self._by
        return score if counts else -math.inf

    def save(self, step: int, state: State, meta: Mapping, score: float | None = None, by: str = "score") -> None:
        """Starts writing a checkpoint; a step that is already there stays as it is.

        The arrays may be donated as soon as this returns.

        Args:
          state: items by name, each a pytree of arrays.
          meta: whatever JSON should come along.
          score: higher is better; None does not compete.
          by: what it is the score of; those of different metrics do not compare.

        Raises:
          UserError: it, or the one before, cannot be written. What was written before is whole.
        """
        self._set_broken_aside()
        if step in self.steps():
            return
        leaves = {item: _describe(tree) for item, tree in state.items()}
        items = {item: ocp.args.StandardSave(tree) for item, tree in state.items() if leaves[item]}
        items[META] = ocp.args.JsonSave({"meta": dict(meta), "leaves": leaves})
        self._by = self._by if score is None else by
        metrics = finite({"score": score, "by": None if score is None else by})
        with self._told():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Writing may fail in any layer and any way: disk full, no permission, quota."""
        with _stragglers_ignored():
            try:
                yield
                return
            except Exception as error:
                reason = _root_cause(error)
            time.sleep(STRAGGLING)
            gc.collect()
        raise UserError(f"no checkpoint can be written to {home(self.directory)}: {reason}")

    def restore(self, abstract: State, step: int | None = None) -> Restored:
        """Reads the newest checkpoint that is whole, or the one of a given step.

        Args:
          abstract: the items wanted, as arrays or `jax.ShapeDtypeStruct`s whose shardings say where leaves
            go. It may name fewer items than were saved, not fewer leaves of an item.
          step: a certain checkpoint, and no other.

        Raises:
          UserError: there is none, none can be read, or it belongs to another model (naming the leaf).
        """
        self.wait()
        candidates = self.steps()[::-1] if step is None else [s for s in self.steps() if s == step]
        if not candidates:
            raise UserError(f"there is no checkpoint {'' if step is None else f'{step} '}in {home(self.directory)}")
        for i, candidate in enumerate(candidates):
            try:
                return self._read(candidate, abstract)
            except Unreadable as error:
                if step is not None or i + 1 == len(candidates):
                    raise UserError(f"checkpoint {home(self.directory) / str(candidate)} is damaged: {error}") from None
                self._broken.append(candidate)
                self._say(f"checkpoint {candidate} is damaged ({error}): going back to {candidates[i + 1]}")
        raise AssertionError("unreachable")

    def _read(self, step: int, abstract: State) -> Restored:
        stored = self._fetch(step, {META: ocp.args.JsonRestore()})[META]
        if not isinstance(stored, Mapping) or not {"meta", "leaves"} <= stored.keys():
            raise Unreadable("its description is incomplete")
        for item, tree in abstract.items():
            _compare(stored["leaves"].get(item, {}), flatten(tree), f"checkpoint {step}: {item}")
        targets = {item: jax.tree.map(_target, tree) for item, tree in abstract.items() if jax.tree.leaves(tree)}
        state = self._fetch(step, {item: ocp.args.StandardRestore(tree) for item, tree in targets.items()})
        changed = (
            f"{item}/{path} is not what was saved"
            for item, tree in state.items()
            for path, leaf in flatten(tree).items()
            if digest(leaf) != stored["leaves"][item][path]["digest"]
        )
        # Digests of cut leaves are computed by all processes together: none may stop at the first that differs.
        if problem := hosts.first("\n".join(changed)):
            raise Unreadable(problem.splitlines()[0])
        return Restored(step, {item: state.get(item, tree) for item, tree in abstract.items()}, stored["meta"])

    def _fetch(self, step: int, items: Mapping[str, Any]) -> dict:
        if not items:
            return {}
        found, reason = {}, None
        with _stragglers_ignored():
            try:
                found = dict(self._manager.restore(step, args=ocp.args.Composite(**items)).items())
            except Exception as error:
                # Damage surfaces as whatever the layer that met it raises.
                reason = _root_cause(error)
            if reason:
                time.sleep(STRAGGLING)
                gc.collect()
        if reason := hosts.first(reason):  # damaged for one process is damaged for all
            raise Unreadable(reason)
        return found

    def _set_broken_aside(self) -> None:
        """Renames damaged checkpoints, whose steps are about to be written again. Nothing is deleted."""

        def aside() -> None:
            for step in self._broken:
                (self.directory / str(step)).rename(self.directory / f"{step}.damaged")

        if self._broken:
            hosts.told(aside)
            self._broken = []
            self._manager.reload()

    def wait(self) -> None:
        """Returns when nothing is being written any more. Raises UserError where writing went wrong."""
        if self._manager:
            with self._told():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go. The object is of no use afterwards. Raises UserError where writing went wrong."""
        if self._manager:
            with self._told():
                self._manager.close()


@contextmanager
def _stragglers_ignored() -> Iterator[None]:
    """Orbax gives up at the first leaf it cannot read or write. What is under way then ends in a closed event loop,
    coroutines are dropped half-way, and Python reports each on stderr, past any `except`."""
    report = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = report


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return of_the_system(error) or f"{type(error).__name__}: {one_line(error)[:120]}"


def _describe(tree: Any) -> dict[str, dict]:
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "digest": digest(leaf)}
        for path, leaf in flatten(tree).items()
    }


def _compare(stored: Mapping[str, Mapping], wanted: Mapping[str, Any], where: str) -> None:
    for path, leaf in wanted.items():
        if path not in stored:
            raise UserError(f"{where}/{path} is missing: it was saved by another model")
        held = tuple(stored[path]["shape"]), stored[path]["dtype"]
        if held != (needed := (tuple(leaf.shape), str(leaf.dtype))):
            raise UserError(
                f"{where}/{path} is {held[1]}{list(held[0])}, this model needs {needed[1]}{list(needed[0])}"
            )
    if extra := [path for path in stored if path not in wanted]:
        raise UserError(f"{where}/{extra[0]} has no place in this model: it was saved by another one")


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """An abstract leaf with a sharding; the first device where none was asked for."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

"""A trained run: its config, its workload, its weights at a step, and evaluating those again."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
from jax.sharding import Mesh

from mtlora_jax.config import Config, check_resumable, from_json, is_run_config, to_json
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import results
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.evaluate import evaluate
from mtlora_jax.engine.hosts import is_first, together
from mtlora_jax.engine.mesh import check_batch_size, make_mesh
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.state import place_weights
from mtlora_jax.engine.step import make_eval_step
from mtlora_jax.engine.sweep import SCORE, SLOTS, Swept, best_of, slots_of
from mtlora_jax.engine.workload import Metrics, Workload
from mtlora_jax.errors import UserError, one_line
from mtlora_jax.files import read_json, write_json
from mtlora_jax.listing import text_table
from mtlora_jax.mirrors import checkpoints, home, opened

Step = str | int
"""`best`, `last`, or a step's number."""


@dataclass(frozen=True)
class Run:
    """A work directory that holds a run; see `open_run`."""

    workdir: Path
    config: Config

    @cached_property
    def workload(self) -> Workload:
        return workload_of(self.config)

    @cached_property
    def mesh(self) -> Mesh:
        """The config's mesh, of this machine's devices."""
        return make_mesh(self.config.mesh)

    def __str__(self) -> str:
        """What messages call it: where it is, also in a store."""
        return str(home(self.workdir))

    @property
    def folder(self) -> Path:
        """Where what is found out about the run is written."""
        return self.workdir

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(checkpoints(self.workdir), read_only=True)

    def step(self, which: Step = "last") -> int:
        """The number of a step that has a checkpoint.

        Raises:
          UserError: there is no such checkpoint; the message lists those there are.
        """
        steps = self._checkpoints.steps()
        if not steps:
            raise UserError(f"{self} holds no checkpoint: the run has not come to its first one")
        if which == "last":
            return steps[-1]
        if which == "best" and (best := self._checkpoints.best()) is not None:
            return best
        if str(which).isdigit() and int(which) in steps:
            return int(which)
        known = ", ".join(map(str, steps))
        raise UserError(f"{self} holds no checkpoint {which!r}: give best, last, or one of {known}")

    def variables(self, which: Step = "last") -> dict:
        """All of the model's collections at a step, on the mesh; neither optimizer nor moments are made or read.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or the frozen weights are not those it was trained on.
        """
        step = self.step(which)
        weights = place_weights(self.workload, self.config, self.mesh, self.workdir, frozen_only=True)
        wanted = {"trainable": weights.trainable, "mutable": weights.mutable}
        found = self._checkpoints.restore(wanted, step)
        check_base(found.meta, weights.fingerprint, str(self))
        count = len(jax.tree.leaves(found.state))
        print(f"{self} at step {step}: {count} leaves from its checkpoint; {weights.sources}", file=sys.stderr)
        return join(found.state["trainable"], weights.frozen, found.state["mutable"])

    def evaluate(self, which: Step = "last", protocol: str | None = None, predictions: Path | None = None) -> Metrics:
        """Evaluates a checkpoint on the held-out split, prints every metric, and writes `evaluation.json`.

        Args:
          protocol: one of the workload's other ways to score (writes `evaluation_<protocol>.json`); None scores as
            training does.
          predictions: a folder for every prediction, of protocols that write them.

        Raises:
          UserError: no such protocol, or one that writes no predictions; a batch that does not divide over the mesh.
        """
        check(self.workload, self.config, self.mesh, protocol, predictions)
        step = self.step(which)
        with together(self.workdir):
            # By its number: a run that still trains may have a later one by now.
            metrics = evaluated(self.workload, self.config, self.mesh, self.variables(step), protocol, predictions)
        path = self.folder / ("evaluation.json" if protocol is None else f"evaluation_{protocol}.json")
        print(metrics_table(metrics, f"step {step}"), *(self.workload.notes if protocol is None else ()), sep="\n")
        if not is_first():
            return metrics
        also = f" and predictions to {home(predictions)}" if predictions else ""
        try:
            write_json(path, {"step": step, "protocol": protocol or "network", "metrics": metrics})
            print(f"wrote {home(path)}{also}")
        except OSError as error:  # a folder of somebody else's
            print(f"{home(path)} is not written ({one_line(error)}): the table is all{also and ', ' + also[5:]}")
        return metrics

    def changed(self, config: Config) -> "Run":
        """The run under a config that differs in what does not change what was trained: where base and data lie, sizes
        of batches, the machine.

        Raises:
          UserError: it differs in more.
        """
        check_resumable(to_json(self.config), to_json(config), f"{self} was trained otherwise", "leave it")
        config.validate()
        return Run(self.workdir, config)

    def slot(self, name: str | None) -> "Run":
        """One run of a sweep, by its name or as `best`; the run itself outside of one.

        Raises:
          UserError: there is no such run, or no name is given.
        """
        if not self.config.sweep:
            if name:
                raise UserError(f"{self} holds one run, no sweep: leave out --slot")
            return self
        known = {slot.name: slot.config for slot in slots_of(self.config)}
        if name not in ("best", *known):
            is_there = f"there is no slot {name}" if name else "this is a sweep"
            raise UserError(f"{self}: {is_there}: give --slot best or one of {' '.join(known)}")
        if name == "best":
            found = results.read(self.workdir)
            if not (last := found.get("best", found.get("last"))):
                raise UserError(f"{self} has no best slot yet: nothing was evaluated")
            name, _ = best_of({slot: last["metrics"][slot][SCORE] for slot in known})
            print(f"{self}: the best slot is {name}", file=sys.stderr)
        return SlotRun(self.workdir, known[name], self, name)


@dataclass(frozen=True)
class SlotRun(Run):
    """One run of a sweep.

    Attributes:
      sweep: it.
      name: the slot's.
    """

    sweep: Run
    name: str

    @property
    def folder(self) -> Path:
        return self.workdir / SLOTS / self.name

    def variables(self, which: Step = "last") -> dict:
        return Swept(self.sweep.config, workload_of).variables(self.sweep.variables(which), self.name)


def check(workload: Workload, config: Config, mesh: Mesh, protocol: str | None, predictions: Path | None) -> None:
    """Raises UserError where there is no such protocol, predictions are asked of none, or its batches do not divide
    over the devices."""
    known = workload.protocols
    if protocol is not None and protocol not in known:
        raise UserError(f"there is no protocol {protocol}: there are {', '.join(known) or 'none'}")
    if protocol is None and predictions is not None:
        raise UserError(f"predictions are written by a protocol: add --protocol {' or '.join(known) or 'NAME'}")
    if protocol is None:
        check_batch_size(config.train.eval_batch_size or config.train.batch_size, mesh, "train.eval_batch_size")


def evaluated(
    workload: Workload, config: Config, mesh: Mesh, variables: Mapping, protocol: str | None, predictions: Path | None
) -> Metrics:
    """The metrics of a model on the held-out split, by a protocol, or as training evaluates."""
    if protocol is not None:
        metrics = workload.protocols[protocol](variables, predictions)
        return {**metrics, "total": workload.overall(metrics)}
    train = config.train
    held_out = workload.held_out(train.eval_batch_size or train.batch_size)
    return evaluate(workload, make_eval_step(workload, mesh), variables, held_out, mesh)


def evaluate_untrained(config: Config, protocol: str | None = None, predictions: Path | None = None) -> Metrics:
    """Evaluates what a config's run would start from, a base model or adapters from elsewhere, and prints the metrics.

    Raises:
      UserError: see `Run.evaluate`, and `state.place_weights`.
    """
    workload, mesh = workload_of(config), make_mesh(config.mesh)
    check(workload, config, mesh, protocol, predictions)
    weights = place_weights(workload, config, mesh)
    print(f"weights: {weights.sources}", file=sys.stderr)
    variables = join(weights.trainable, weights.frozen, weights.mutable)
    metrics = evaluated(workload, config, mesh, variables, protocol, predictions)
    print(metrics_table(metrics, "untrained"), *(workload.notes if protocol is None else ()), sep="\n")
    print(f"wrote predictions to {home(predictions)}" if predictions else "nothing is written: there is no run")
    return metrics


def metrics_table(metrics: Metrics, column: str) -> str:
    rows = [(task, name, value) for task in metrics for name, value in metrics[task].items()]
    return text_table(("task", "metric", column), rows)


def open_run(workdir: str | Path) -> Run:
    """The run that a work directory holds; nothing is read but its config.

    Raises:
      UserError: it holds no run, or one of a revision whose configs had other keys.
    """
    folder = opened(workdir)
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no config.json (train with --workdir {workdir} first)")
    told = read_json(path)
    if not is_run_config(told):
        raise UserError(f"{workdir} holds no run: its config.json is not that of one")
    try:
        return Run(folder, from_json(told))
    except UserError as error:
        raise UserError(f"{home(path)}: {error}: another revision of mtlora_jax wrote it, which can read it") from None


def check_base(meta: dict, fingerprint: str, where: str) -> None:
    """Raises UserError where a checkpoint was trained on other frozen weights than those at hand."""
    if meta["base"] != fingerprint:
        raise UserError(f"{where} was trained on other frozen weights: their fingerprints differ")

"""A sweep as the engine sees it: a workload whose tasks are its slots."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mtlora_jax.config import Config, to_json
from mtlora_jax.engine import results
from mtlora_jax.engine.borrowed import Borrowed
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.step import finish
from mtlora_jax.engine.sweep.group import Group, chosen
from mtlora_jax.engine.sweep.inputs import All, Each, Shared
from mtlora_jax.engine.sweep.slots import SLOTS, Slot, alike, best_of, slots_of
from mtlora_jax.engine.workload import Metrics, Objective, Workload, step_key
from mtlora_jax.errors import UserError
from mtlora_jax.listing import text_table

SCORE, HIGHEST = "score", "score of a run"


class Swept:
    """The functions of a sweep's workload.

    Args:
      config: the sweep's.
      make: makes the workload of a slot's config.
      stopped: names of slots that no longer train; everything else is as it was with them.
    """

    def __init__(self, config: Config, make: Callable[[Config], Workload], stopped: Collection[str] = ()):
        self.config, self.make, self.stopped = config, make, frozenset(stopped)
        self.groups = {
            str(g): Group(slots, make(slots[0].config), config.seed) for g, slots in enumerate(alike(slots_of(config)))
        }
        self.inner = self.groups["0"].workload
        self.seeds = tuple(dict.fromkeys(slot.config.seed for slot in self.slots))

    @property
    def slots(self) -> list[Slot]:
        return [slot for group in self.groups.values() for slot in group.slots]

    # --- variables: frozen leaves at their own paths, those of slots at `collection/slots/<group>/...`

    def init(self, seed: int) -> dict:
        parts = []
        for g, group in self.groups.items():
            trainable, frozen, mutable = group.init()
            parts.append({"lora": {SLOTS: {g: trainable}}})
            parts.append({name: {SLOTS: {g: of}} for name, of in mutable.items()})
            parts.append(frozen)  # of all groups alike
        return join(*parts)

    def variables(self, all_variables: Mapping, name: str) -> dict:
        """One slot's variables of all."""
        frozen, parts = self._parts(all_variables)
        g, i = self._place(name)
        return join(frozen, *(jax.tree.map(lambda leaf: leaf[i], part) for part in parts[g]))

    def _place(self, name: str) -> tuple[str, int]:
        return next((g, i) for g, group in self.groups.items() for i, s in enumerate(group.slots) if s.name == name)

    def _parts(self, variables: Mapping) -> tuple[dict, dict[str, tuple[dict, dict]]]:
        """`(frozen, {group: (trainable, mutable)})`."""
        frozen = {n: {k: v for k, v in of.items() if k != SLOTS} for n, of in variables.items()}
        stacked = {n: of[SLOTS] for n, of in variables.items() if SLOTS in of}
        trainable = stacked.pop("lora")
        return frozen, {g: (trainable[g], {n: of[g] for n, of in stacked.items()}) for g in self.groups}

    def table(self) -> tuple[tuple[str, str], ...]:
        odd = [
            (f"^lora/{SLOTS}/{g}/{path}$", label)
            for g, group in self.groups.items()
            for path, label in group.labels.items()
            if label not in ("frozen", "decay")
        ]
        return (*odd, (f"^lora/{SLOTS}/", "decay"), ("^params/", "frozen"))

    def load_base(self) -> "Shared | None":
        base = self.inner.load_base()
        if base is None:
            if len(self.seeds) > 1 and any(label == "frozen" for label in self.groups["0"].labels.values()):
                raise UserError("sweep.seed: this base is drawn from the seed, and all runs share it")
            return None
        found: dict[str, tuple[Any, str, int]] = {}
        for g, group in self.groups.items():
            own = base if g == "0" else group.workload.load_base()
            shapes = traverse_util.flatten_dict(group.shapes, sep="/")
            own = own.fitting(shapes) if isinstance(own, Borrowed) else own
            for path in own:
                collection = path.partition("/")[0]
                label = group.labels.get(path)
                if label == "frozen":
                    found[path] = own, path, 0
                elif label is None and collection in ("params", "lora"):
                    found[path] = own, path, 0  # no leaf of this model: refused by name
                else:
                    at = f"lora/{SLOTS}/{g}/{path}" if label else path.replace("/", f"/{SLOTS}/{g}/", 1)
                    found[at] = own, path, len(group.slots)
        return Shared(found, getattr(base, "where", "the base"))

    # --- a step: of training, every slot's own batch; of evaluation, one for all

    def forward(self, variables: Mapping, batch: Mapping, keys: jax.Array | None) -> tuple[dict, dict]:
        frozen, parts = self._parts(variables)
        outputs, mutated = {}, {}
        for g, group in self.groups.items():

            def one(trainable, mutable, batch, key, workload=group.workload):
                return workload.forward(join(trainable, frozen, mutable), batch, key)

            if keys is None:
                outputs[g], _ = jax.vmap(partial(one, batch=batch["all"], key=None))(*parts[g])
            elif going := self._going(group):
                at = np.array(going) if len(going) < len(group.slots) else slice(None)
                some = jax.tree.map(lambda x, at=at: x[at], parts[g])
                outputs[g], changed = jax.vmap(one)(*some, self._own(group, batch), keys[self._which(group)])
                for name, of in changed.items():
                    whole = jax.tree.map(lambda x, new, at=at: x.at[at].set(new), parts[g][1][name], of)
                    mutated.setdefault(name, {SLOTS: {}})[SLOTS][g] = whole
        return outputs, mutated

    def _going(self, group: Group) -> list[int]:
        """Which slots of a group train."""
        return [i for i, slot in enumerate(group.slots) if slot.name not in self.stopped]

    def _which(self, group: Group) -> np.ndarray:
        """Which of the seeds every slot that trains has."""
        return np.array([self.seeds.index(group.slots[i].config.seed) for i in self._going(group)])

    def _own(self, group: Group, batch: Mapping) -> dict:
        """`[B, seeds, ...]` as the batch of every slot that trains, `[slots, B, ...]`."""
        which = self._which(group)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[which], batch["each"])

    def _each(self, fn: Callable, outputs: Mapping, batch: Mapping) -> Iterator[tuple[Slot, dict]]:
        """What a function of a slot's outputs and batch gives, `{task: {name: array}}`, of every slot that there are
        outputs of."""
        for g in outputs:
            group, slots = self.groups[g], self.groups[g].slots
            if "all" in batch:
                found = jax.vmap(partial(fn, group.workload), (0, None))(outputs[g], batch["all"])
            else:
                found = jax.vmap(partial(fn, group.workload))(outputs[g], self._own(group, batch))
                slots = [slots[i] for i in self._going(group)]
            for i, slot in enumerate(slots):
                yield slot, jax.tree.map(lambda x, i=i: x[i], found)

    def sums(self, outputs: Mapping, batch: Mapping) -> dict:
        found = self._each(lambda workload, *of: workload.sums(*of), outputs, batch)
        return {slot.name: flat(of) for slot, of in found}

    def measure(self, outputs: Mapping, batch: Mapping) -> dict:
        def measured(workload: Workload, outputs, batch):
            return counted(workload.measure(outputs, batch), batch["valid"], jnp)

        return {slot.name: flat(of) for slot, of in self._each(measured, outputs, batch)}

    def observe(self, outputs: Mapping, batch: Mapping) -> dict:
        found = {}
        for g, group in self.groups.items():
            for i, slot in enumerate(group.slots):
                own = jax.tree.map(lambda x, i=i: x[i], outputs[g])
                seen = group.workload.observe(own, {**batch["all"], "id": batch["id"]})
                found[slot.name] = flat(counted(seen, batch["all"]["valid"], np))
        return found

    def optimizer(self, config: Config) -> optax.GradientTransformationExtraArgs:
        each = {g: group.optimizer(config.train.steps) for g, group in self.groups.items()}

        def init(params):
            own = params["lora"][SLOTS]
            alive = {g: jnp.ones(len(group.slots), bool) for g, group in self.groups.items()}
            return {"alive": alive, **{g: optimizer.init(own[g]) for g, optimizer in each.items()}}

        def update(updates, state, params, *, present):
            own, alive, after, changes = params["lora"][SLOTS], {}, {}, {}
            for g, optimizer in each.items():
                group, grads = self.groups[g], updates["lora"][SLOTS][g]
                there = {
                    task: jnp.stack([present[f"{slot.name}/{task}"] for slot in group.slots])
                    for task in group.workload.objectives
                }
                goes = np.isin(np.arange(len(group.slots)), self._going(group))
                fine = jnp.isfinite(jax.vmap(optax.tree.norm)(grads)) & state["alive"][g] & goes
                moved, stepped = optimizer.update(grads, state[g], own[g], present=there)
                changes[g] = chosen(fine, moved, jax.tree.map(jnp.zeros_like, moved))
                after[g], alive[g] = chosen(fine, stepped, state[g]), fine
            return {"lora": {SLOTS: changes}}, {"alive": alive, **after}

        return optax.GradientTransformationExtraArgs(init, update)

    # --- slots as tasks

    def objective(self, group: Group) -> Objective:
        workload = group.workload

        def compute(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
            of = nested(sums)
            return self.scored(workload, {task: o.compute(of[task]) for task, o in workload.objectives.items()})

        return Objective(
            weight=1.0,
            finish=lambda sums: finish(workload, nested(sums))["loss"],
            compute=compute,
            score=SCORE,
            higher_is_better=True,
        )

    def scored(self, workload: Workload, metrics: Metrics) -> dict[str, float]:
        """A slot's metrics of all tasks, as those of one."""
        every = {**metrics, "total": workload.overall(metrics)}
        return {SCORE: results.score(workload, every, self.config.train.best)[1], **flat(every)}

    def standing(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of a slot's metrics those that stand for its tasks, by task, and those of all tasks together."""
        each = {task: metrics[f"{task}/{o.score}"] for task, o in self.inner.objectives.items()}
        return each | {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("total/")}

    def closing(self, found: Mapping[str, Any]) -> str:
        """Runs down, tasks across, after the last step; those that differ in the seed alone are one line."""
        slots, last = self.slots, found["last"]["metrics"]
        lines = {"constant": [found["constant"][slots[0].name]], "step 0": [found["initial"]["metrics"][slots[0].name]]}
        for slot in slots:
            at = found.get("stopped", {}).get(slot.name)
            line = slot.run or self.config.name
            lines.setdefault(line if at is None else f"{line} (to step {at})", []).append(last[slot.name])
        names = list(self.standing(last[slots[0].name]))
        rows = []
        for line, of in lines.items():
            standing = [self.standing(metrics) for metrics in of]
            rows.append(
                [
                    line,
                    len(of),
                    *(results.mean_and_deviation([metrics.get(name) for metrics in standing]) for name in names),
                ]
            )
        moment = "best" if "best" in found else "last"
        name, value = best_of({slot.name: found[moment]["metrics"][slot.name][SCORE] for slot in slots})
        best = f"the best run is {name}: {value:.4f} at step {found[moment]['step']}; commands take it with --slot best"
        header = ("run", "seeds", *names)
        return "\n".join([text_table(header, rows), "", best, *self.inner.notes])

    def hopeless(self, metrics: Metrics, stopped: Collection[str]) -> list[str]:
        """Slots of the runs that are not among the best by the mean over their seeds; as many as `sweep_keep` says."""
        runs: dict[str, list[Slot]] = {}
        for slot in self.slots:
            if slot.name not in stopped:
                runs.setdefault(slot.run, []).append(slot)
        means = {run: float(np.mean([metrics[slot.name][SCORE] for slot in of])) for run, of in runs.items()}
        order = sorted(runs, key=lambda run: -means[run] if math.isfinite(means[run]) else math.inf)
        return [slot.name for run in order[math.ceil(self.config.sweep_keep * len(order)) :] for slot in runs[run]]

    def without(self, stopped: Collection[str]) -> Workload:
        return Swept(self.config, self.make, stopped).workload()

    def constant(self) -> Metrics:
        metrics = self.inner.constant()
        return {slot.name: self.scored(self.inner, metrics) for slot in self.slots}

    def artifacts(self, variables: Mapping, workdir: Path, meta: Mapping) -> Sequence[str]:
        for slot in self.slots:
            folder = workdir / SLOTS / slot.name
            folder.mkdir(parents=True, exist_ok=True)
            group = self.groups[self._place(slot.name)[0]]
            own = {**meta, "config": to_json(slot.config)}
            group.workload.artifacts(self.variables(variables, slot.name), folder, own)
        return (SLOTS,)

    def total(self, losses: Mapping, sums: Mapping) -> jax.Array:
        """The sum: no slot's gradient is in another's loss. One whose loss is not finite has left."""
        return sum(jnp.where(jnp.isfinite(loss), loss, 0.0) for loss in losses.values())

    def abstract_batch(self, batch_size: int) -> dict:
        each = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], len(self.seeds), *x.shape[1:]), x.dtype),
            self.inner.abstract_batch(batch_size),
        )
        row = jax.ShapeDtypeStruct((batch_size,), np.bool_)
        tasks = ["", *(f"/{task}" for task in self.inner.objectives)]
        names = [slot.name + task for slot in self.slots for task in tasks]
        return {"each": each, "valid": dict.fromkeys(names, row)}

    def step_key(self, seed: int, step: jax.Array) -> jax.Array:
        return jax.vmap(lambda seed: step_key(seed, step))(np.array(self.seeds, np.int32))

    def workload(self) -> Workload:
        inner = self.inner
        if self.config.train.best == "loss":
            raise UserError("train.best: the runs of a sweep are compared by scores; choose another than loss")
        axes = dict.fromkeys(row for group in self.groups.values() for row in group.workload.axes)
        return Workload(
            objectives={
                group.slots[i].name: self.objective(group) for group in self.groups.values() for i in self._going(group)
            },
            abstract_batch=self.abstract_batch,
            init=self.init,
            load_base=self.load_base,
            forward=self.forward,
            sums=self.sums,
            measure=self.measure,
            observe=self.observe if inner.observe else None,
            table=self.table(),
            axes=tuple(axes),
            train_batches=lambda size: Each(
                inner.train_batches(size),
                self.seeds,
                {slot.name: self.seeds.index(slot.config.seed) for slot in self.slots},
            ),
            held_out=lambda size: All(inner.held_out(size), tuple(slot.name for slot in self.slots)),
            constant=self.constant,
            artifacts=self.artifacts,
            total=self.total,
            overall=lambda metrics: {HIGHEST: best_of({slot: of[SCORE] for slot, of in metrics.items()})[1]},
            best=HIGHEST,
            about=inner.about,
            identity=inner.identity,
            notes=inner.notes,
            optimizer=self.optimizer,
            step_key=self.step_key,
            independent=True,
            closing=self.closing,
            hopeless=self.hopeless,
            without=self.without,
        )


def counted(statistics: Mapping, valid: Mapping, xp: Any) -> dict:
    """Statistics of examples `[B, ...]`, 0 where an example is none of the task."""
    return {
        task: {
            name: xp.where(xp.asarray(valid[task]).reshape(-1, *(1,) * (np.ndim(x) - 1)), x, 0)
            for name, x in of.items()
        }
        for task, of in statistics.items()
    }


def flat(of: Mapping[str, Mapping]) -> dict[str, Any]:
    return {f"{task}/{name}": value for task, values in of.items() for name, value in values.items()}


def nested(of: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The inverse of `flat`."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in of.items():
        task, _, name = path.partition("/")
        found.setdefault(task, {})[name] = value
    return found

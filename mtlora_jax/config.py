"""What every run is told, whatever its domain. A domain subclasses `Config`; a recipe file returns one."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from mtlora_jax import schema
from mtlora_jax.errors import UserError


@dataclass(frozen=True)
class Optim:
    """AdamW, clipped, on a schedule (see `mtlora_jax.engine.optim`).

    Attributes:
      lr: peak learning rate.
      lr_warmup: learning rate of the first update of the warmup.
      lr_min: learning rate at the end of a cosine.
      warmup_steps: updates of linear warmup.
      steps: updates that the schedule runs over; 0 takes all of the run's. A run that goes on for longer keeps its
        learning rate at the end of them.
      schedule: what follows the warmup: a cosine, or a straight line, to `lr_min` at the last step, or `lr` for good.
      weight_decay: decoupled, multiplied by the learning rate; leaves labelled `no_decay` have none.
      b1, b2, eps: Adam's.
      eps_corrected: eps is added to the root of the bias-corrected second moment; else, as in the AdamW of early
        transformers, to the root before it is corrected, which holds the first updates of tiny gradients back.
      absent_tasks: leaves of a task that no example of a batch belongs to `keep` values and moments, or take the
        `step` that their moments ask for, as plain AdamW does.
      clip_norm: limit of the global norm of the trainable leaves' gradients; 0 does not clip.
    """

    lr: float = 1e-3
    lr_warmup: float = 0.0
    lr_min: float = 0.0
    warmup_steps: int = 0
    steps: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_corrected: bool = True
    clip_norm: float = 5.0
    absent_tasks: Literal["keep", "step"] = "keep"


@dataclass(frozen=True)
class Train:
    """How long, how much at once, and how often something is written.

    Attributes:
      steps: updates of the whole run.
      batch_size: B of the global batch, all devices and processes together.
      accumulate: parts of a batch that are computed one after the other, for the memory of one of them and the gradient
        of all; batch statistics and dropout are a part's.
      eval_batch_size: B in evaluation; 0 takes `batch_size`.
      eval_every: steps between evaluations; 0 evaluates at the end only.
      checkpoint_every: steps between checkpoints beside those after an evaluation; 0 writes no others.
      log_every: steps between lines of `metrics.jsonl`.
      keep: newest checkpoints kept, beside the best.
      best: what evaluations are compared by: `mean`, of the tasks' scores, `loss`, the total, a task's name, for its
        score, or a metric of all tasks such as `delta_m`; empty takes the domain's own (Δm where a run has baselines,
        else the mean).
      workers: processes or threads that prepare batches; 0 prepares them in line.
      worker_kind: processes for data sets that compute in Python, threads for those that read and decode files.
      patience: minutes without the end of a step after which all stacks are written to stderr; 0 for none.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    eval_batch_size: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    keep: int = 2
    best: str = ""
    workers: int = 2
    worker_kind: Literal["process", "thread"] = "process"
    patience: float = 30.0


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Config:
    """What every run has.

    Attributes:
      name: the run's; without `--workdir` it lives in `runs/<name>`.
      seed: decides initial weights, batch order and dropout.
      sweep: values of other keys, by key: a run for every combination, all at once over one base (see `engine.sweep`).
      sweep_keep: the share of a sweep's runs that goes on training after an evaluation, the best by the mean over their
        seeds; 1 stops none.
    """

    name: str = "run"
    seed: int = 0
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    mesh: Mesh = field(default_factory=Mesh)
    sweep: Mapping[str, tuple[bool | int | float | str, ...]] = field(default_factory=dict)
    sweep_keep: float = 1.0

    def validate(self) -> None:
        """Raises UserError for the first value of a wrong type or out of range. Subclasses extend it."""
        from_json(to_json(self))
        for path, holds, demand in RULES:
            value = self
            for key in path.split("."):
                value = getattr(value, key)
            if not holds(value):
                raise UserError(f"{path} must {demand}, not {value!r}")
        if list(vars(self.mesh).values()).count(-1) > 1:
            raise UserError("mesh: only one of data, fsdp and tensor can be -1")


def _from(low: float, high: float = math.inf) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


AXIS = (lambda n: n == -1 or n >= 1, "be -1 or at least 1")
COUNT = (_from(1), "be at least 1")
OPTIONAL = (_from(0), "be at least 0")
MOMENT = (lambda b: 0 <= b < 1, "lie in [0, 1)")

RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("name", re.compile(r"[\w.+-]*\w[\w.+-]*").fullmatch, "be of letters, digits and ._+-"),
    ("seed", _from(0, 2**31 - 1), "lie between 0 and 2147483647"),
    ("sweep_keep", lambda share: 0 < share <= 1, "be above 0 and at most 1"),
    ("optim.lr", *OPTIONAL),
    ("optim.lr_warmup", *OPTIONAL),
    ("optim.lr_min", *OPTIONAL),
    ("optim.warmup_steps", *OPTIONAL),
    ("optim.steps", *OPTIONAL),
    ("optim.weight_decay", *OPTIONAL),
    ("optim.b1", *MOMENT),
    ("optim.b2", *MOMENT),
    ("optim.eps", lambda eps: eps > 0, "be positive"),
    ("optim.clip_norm", *OPTIONAL),
    ("train.steps", *COUNT),
    ("train.batch_size", *COUNT),
    ("train.accumulate", *COUNT),
    ("train.eval_batch_size", *OPTIONAL),
    ("train.eval_every", *OPTIONAL),
    ("train.checkpoint_every", *OPTIONAL),
    ("train.log_every", *COUNT),
    ("train.keep", *COUNT),
    ("train.workers", *OPTIONAL),
    ("train.patience", *OPTIONAL),
    ("mesh.data", *AXIS),
    ("mesh.fsdp", *AXIS),
    ("mesh.tensor", *AXIS),
)
"""(key, test, what it must do) for every plain bound."""

MAY_DIFFER = (
    *("train.steps", "optim.steps", "train.eval_*", "train.*_every", "train.keep", "train.best", "baselines"),
    *("train.worker*", "train.patience", "mesh.*"),
    *("init_from", "tokenizer", "data.root", "data.prepared", "data.sources.*.root", "data.sources.*.prepared"),
    *("data.train", "data.val", "data.per_set.*", "search.*", "plain_*"),
)
"""What a resumed run, or a command that reads it, may change: its length and reports, its machine, and where its base
and data lie (a base is known by its fingerprint). Never what a step computes."""


def to_json(config: Config) -> dict:
    """A config as JSON that rebuilds it with `from_json`."""
    return schema.encode(config)


def from_json(value: dict) -> Config:
    """The config that `to_json` wrote.

    Raises:
      UserError: a key is unknown or missing, or a value is of the wrong type; the message names it.
    """
    return schema.decode(value, Config)


def is_run_config(value: Any) -> bool:
    """Whether JSON is what `to_json` writes, and not somebody else's `config.json`."""
    return isinstance(value, dict) and schema.KIND in value


def check_resumable(
    old: dict,
    new: dict,
    what: str = "the workdir holds a run of another config",
    mend: str = "choose another --workdir",
) -> None:
    """Compares the JSON of a run's config with the one it is to be resumed or read with.

    Args:
      what, mend: begin and end the message.

    Raises:
      UserError: they differ in more than `MAY_DIFFER`; the message names the first key and both values.
    """
    before, after = _flat(old), _flat(new)
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now and not any(fnmatchcase(key, pattern) for pattern in MAY_DIFFER):
            raise UserError(f"{what}: {key} was {was}, now {now}; {mend}")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    inner = [_flat(item, f"{path}.{key}" if path else key) for key, item in value.items()]
    return {k: v for flat in inner for k, v in flat.items()} or {path: {}}

"""The config of a dense multi-task run: what `get_config()` of a vision recipe returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.vision.datasets.data import Data
from mtlora_jax.vision.datasets.folder import FolderData
from mtlora_jax.vision.datasets.mixture import MixtureData
from mtlora_jax.vision.datasets.nyud import NyudData
from mtlora_jax.vision.datasets.pascal_context import PascalData
from mtlora_jax.vision.datasets.scenes import ScenesData
from mtlora_jax.vision.heads import HeadKind
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import TASKS, task
from mtlora_jax.vision.tasks.task import Task
from mtlora_jax.vision.trainable import Trainable

__all__ = [
    "Data",
    "FolderData",
    "MixtureData",
    "NyudData",
    "PascalData",
    "ScenesData",
    "TaskConfig",
    "VisionConfig",
]


@dataclass(frozen=True)
class TaskConfig:
    """One dense task of a run. A subclass in a recipe of your own makes a task of your own.

    Attributes:
      weight: weight of its loss in the total; None takes the task's own, as published.
      head: kind of decoder head.
      classes: names of the classes, for tasks that have classes; empty takes the task's own.
    """

    weight: float | None = None
    head: HeadKind = "hrnet"
    classes: tuple[str, ...] = ()

    def make(self, name: str) -> Task:
        """The task of that name. Raises UserError where there is none."""
        return task(name, **({"classes": len(self.classes), "names": self.classes} if self.classes else {}))


@dataclass(frozen=True)
class VisionConfig(Config):
    """A multi-task Swin run.

    Attributes:
      backbone: the Swin's shape; its `image_size` is the run's.
      init_from: where the model starts: a pretrained backbone (`scenes_nano`, embedded; a file; a hub name), or
        another run (`runs/x`, `runs/x@best`, `runs/x@300`), whose tasks, classes and ranks may be others. None draws it
        from the seed.
      init_only: a regex of leaves' paths; of another run only those are taken.
      placement: where MTLoRA sits; None trains without adapters.
      trainable: what trains in the backbone beside adapters.
      tasks: by name; the order is the order of the task streams.
      decoder_channels: channels of every stage's projected feature map.
      shared_projection: one projection for all tasks.
      head_width: inner width of segformer heads.
      dtype: compute dtype.
      data: the data set.
      baselines: single-task scores that Δm is measured against: `pascal_single_task`, `nyud_single_task` (published),
        results files or work directories of runs. Without any there is no Δm.
    """

    backbone: SwinSpec = field(default_factory=SwinSpec)
    init_from: str | None = None
    init_only: str = ""
    placement: Placement | None = None
    trainable: Trainable = field(default_factory=Trainable)
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    decoder_channels: tuple[int, ...] | None = (18, 36, 72, 144)
    shared_projection: bool = False
    head_width: int = 256
    dtype: Literal["float32", "bfloat16"] = "float32"
    data: Data = field(default_factory=ScenesData)
    baselines: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raises UserError for a backbone that no image fits, an unknown task, or ranks that do not fit."""
        super().validate()
        if problem := self.backbone.problems():
            raise UserError(f"backbone: {problem}")
        if not self.tasks:
            raise UserError(f"tasks is empty: choose from {', '.join(TASKS)}")
        self.make_tasks()
        if self.decoder_channels is not None and len(self.decoder_channels) != self.backbone.stages:
            raise UserError(
                f"decoder_channels has {len(self.decoder_channels)} entries, the backbone {self.backbone.stages} stages"
            )
        if self.placement is not None:
            self._validate_placement(self.placement)
        self._validate_data()

    def _validate_data(self) -> None:
        """Checks that the data sets, where they know, have labels of the tasks, in as many classes."""
        tasks = self.make_tasks()
        self.data.check(tasks)
        sources = self.data.sources if isinstance(self.data, MixtureData) else {"data": self.data}
        labelled = {key: source.labelled(tasks) for key, source in sources.items()}
        for name, t in tasks.items():
            if not any(name in of for of in labelled.values()):
                has = ", ".join(dict.fromkeys(task for source in sources.values() for task in source.classes() or ()))
                raise UserError(f"tasks.{name}: the data has no labels of it, only of {has}")
            for key, source in sources.items():
                if (classes := (source.classes() or {}).get(name)) not in (None, t.channels):
                    raise UserError(f"tasks.{name} has {t.channels} classes, {key} has {classes}: name as many")

    def _validate_placement(self, placement: Placement) -> None:
        stages = self.backbone.stages
        for name in ("shared_rank", "shared_scale", "dropout"):
            if len(value := getattr(placement, name)) not in (1, stages):
                raise UserError(f"placement.{name} needs 1 or {stages} entries, one per stage, not {len(value)}")
        for name in ("task_rank", "task_scale"):
            for key, value in getattr(placement, name).items():
                if key not in self.tasks:
                    raise UserError(f"placement.{name}.{key}: {key} is not among the tasks {', '.join(self.tasks)}")
                if len(value) not in (1, stages):
                    raise UserError(f"placement.{name}.{key} needs 1 or {stages} entries, not {len(value)}")
        try:
            for stage, depth in enumerate(self.backbone.depths):
                for layer in ("qkv", "proj", "reduction"):
                    placement.spec(layer, stage, depth > 0, tuple(self.tasks))
        except ValueError as error:
            raise UserError(f"placement: {error}") from None

    def make_tasks(self) -> dict[str, Task]:
        """The tasks themselves, with this run's options."""
        return {name: config.make(name) for name, config in self.tasks.items()}

    def weights(self) -> dict[str, float]:
        """Every task's weight in the total loss: this run's, or the published one."""
        tasks = self.make_tasks()
        return {
            name: tasks[name].weight if config.weight is None else config.weight for name, config in self.tasks.items()
        }

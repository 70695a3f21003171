"""The config of a dense multi-task run: what `get_config()` of a vision recipe returns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.vision.datasets import folder, nyud, pascal_context
from mtlora_jax.vision.heads import HeadKind
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import TASKS, task
from mtlora_jax.vision.tasks.task import Task
from mtlora_jax.vision.trainable import Trainable


@dataclass(frozen=True)
class TaskConfig:
    """One dense task of a run.

    Attributes:
      weight: of its loss in the total.
      head: kind of decoder head.
      classes: names of the classes, for tasks that have classes; empty takes the task's own.
    """

    weight: float = 1.0
    head: HeadKind = "hrnet"
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScenesData:
    """The embedded data set of procedural scenes.

    Attributes:
      train_length, val_length: images per split.
    """

    train_length: int = 4096
    val_length: int = 128


PresetName = Literal["published", "default"]
Labels = Mapping[str, int | None]
"""Tasks that a data set has labels of, each with its number of classes if it has classes."""


@dataclass(frozen=True)
class PascalData:
    """PASCAL-Context as published; see `vision.data.pascal_context` for the files.

    Attributes:
      root: the folder that holds `JPEGImages`; nothing is written there.
      prepared: a folder of prepared records (`python -m mtlora_jax.data prepare`), read in the place of files.
      preset: transforms as `published`, slips included, or mended (`default`); see `vision.data.transforms`.
      resize_labels: bring labels of another size to their image's, as the reference does, rather than refuse them.
      normals_y: which way y points in the files, so that the default preset turns normals with their image. It is
        stated nowhere; the published rotation, and NYUDv2's own colours, have it point down.
    """

    root: str = ""
    prepared: str | None = None
    preset: PresetName = "published"
    resize_labels: bool = False
    normals_y: Literal["down", "up"] = "down"

    labels: ClassVar[Labels] = {task: pascal_context.CLASSES.get(task) for task in pascal_context.LAYOUT.labels}


@dataclass(frozen=True)
class NyudData:
    """NYUDv2 as published; see `vision.data.nyud` for the files.

    Attributes:
      root: the folder that holds `gt_sets`; nothing is written there.
      prepared, preset, resize_labels, normals_y: see `PascalData`.
    """

    root: str = ""
    prepared: str | None = None
    preset: PresetName = "published"
    resize_labels: bool = False
    normals_y: Literal["down", "up"] = "down"

    labels: ClassVar[Labels] = {task: nyud.CLASSES.get(task) for task in nyud.LAYOUT.labels}


@dataclass(frozen=True)
class FolderData:
    """A data set of your own; see `vision.data.folder` for the files. Classes are those that `tasks` name.

    Attributes:
      root: the folder that holds `train.txt`, `val.txt` and the rest; nothing is written there.
      images: the images' folder.
      folders: `{task: folder}` for those not named like their task.
      tasks: those it has labels of, in a mixture; empty stands for all of the run.
      gaps: an image may lack labels of some tasks; it trains and scores the others.
      masks: saliency and edges as `classes` (0, 1, 255 void) or as `grey` (1 above one half).
      depth_unit: metres for each unit of a depth png.
      augment: the random motions of a published data set, or none.
      preset: transforms, mended or as published; see `vision.data.transforms`.
      resize_labels, normals_y: see `PascalData`.
    """

    root: str = ""
    images: str = "images"
    folders: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    gaps: bool = False
    masks: folder.Masks = "classes"
    depth_unit: float = 0.001
    augment: Literal["pascal", "nyud", "none"] = "pascal"
    preset: PresetName = "default"
    resize_labels: bool = False
    normals_y: Literal["down", "up"] = "up"


@dataclass(frozen=True)
class MixtureData:
    """Several data sets at once, each with labels of its own tasks; see `engine.mixture`.

    Attributes:
      sources: by names of your own. Each augments its examples its own way.
      weights: `{name: share}` of the examples trained on; empty goes by lengths and temperature.
      temperature: shares go by length ** (1 / temperature): 1 by size, the larger the more even.
      order: `shuffled` by shares, or `turns`, one source after the other.
    """

    sources: Mapping[str, ScenesData | PascalData | NyudData | FolderData] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    order: Literal["shuffled", "turns"] = "shuffled"


Data = ScenesData | PascalData | NyudData | FolderData | MixtureData


def labels_of(data: ScenesData | PascalData | NyudData | FolderData, tasks: Iterable[str]) -> Labels:
    """Which of a run's tasks a data set has labels of, and in how many classes where it is that that says so."""
    known = getattr(data, "labels", None) or dict.fromkeys(getattr(data, "tasks", ()) or tasks)
    return {task: known[task] for task in tasks if task in known}


@dataclass(frozen=True)
class VisionConfig(Config):
    """A multi-task Swin run.

    Attributes:
      backbone: the Swin's shape; its `image_size` is the run's.
      init_from: pretrained backbone: `scenes_nano` (embedded), a file, or a hub name; None draws it from the seed.
      placement: where MTLoRA sits; None trains without adapters.
      trainable: what trains in the backbone beside adapters.
      tasks: by name; the order is the order of the task streams.
      decoder_channels: channels of the four projected taps.
      shared_projection: one projection for all tasks.
      head_width: inner width of segformer heads.
      dtype: compute dtype.
      data: the data set.
      baselines: single-task scores that Δm is measured against: `pascal_single_task`, `nyud_single_task` (published),
        results files or work directories of runs. Without any there is no Δm.
    """

    backbone: SwinSpec = field(default_factory=SwinSpec)
    init_from: str | None = None
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
        self.task_objects()
        if self.decoder_channels is not None and len(self.decoder_channels) != self.backbone.stages:
            raise UserError(
                f"decoder_channels has {len(self.decoder_channels)} entries, the backbone {self.backbone.stages} stages"
            )
        if self.placement is not None:
            self._validate_placement(self.placement)
        self._validate_data()

    def _validate_data(self) -> None:
        """Whether the data sets, where they know, have labels of the tasks, in as many classes."""
        mixed = isinstance(self.data, MixtureData)
        sources = self.data.sources if mixed else {"data": self.data}
        if mixed:
            self._validate_mixture(self.data)
        for name, t in self.task_objects().items():
            labels = {key: labels_of(source, self.tasks) for key, source in sources.items()}
            if not any(name in of for of in labels.values()):
                has = ", ".join(dict.fromkeys(task for of in labels.values() for task in of))
                raise UserError(f"tasks.{name}: the data has no labels of it, only of {has}")
            for key, of in labels.items():
                if of.get(name) not in (None, t.channels):
                    raise UserError(f"tasks.{name} has {t.channels} classes, {key} has {of[name]}: name as many")

    def _validate_mixture(self, data: MixtureData) -> None:
        if not data.sources:
            raise UserError("data.sources is empty: a mixture needs at least one data set")
        if data.temperature <= 0:
            raise UserError(f"data.temperature must be positive, not {data.temperature}")
        if data.weights and (set(data.weights) != set(data.sources) or min(data.weights.values()) <= 0):
            raise UserError(
                f"data.weights needs a weight above 0 for each of {', '.join(data.sources)}, or none at all"
            )

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

    def task_objects(self) -> dict[str, Task]:
        """The tasks themselves, with this run's options."""
        return {
            name: task(name, **({"classes": len(t.classes), "names": t.classes} if t.classes else {}))
            for name, t in self.tasks.items()
        }

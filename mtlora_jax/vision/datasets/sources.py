"""Which source of examples a config means: one table, from the kind of its data config to what opens the data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mtlora_jax.images import transforms
from mtlora_jax.input.mixture import Mixture, shares_of
from mtlora_jax.vision.config import FolderData, MixtureData, NyudData, PascalData, ScenesData, VisionConfig, labels_of
from mtlora_jax.vision.datasets import folder, nyud, pascal_context, scenes
from mtlora_jax.vision.datasets.layout import Files, Layout, open_files
from mtlora_jax.vision.datasets.prepared import Prepared
from mtlora_jax.vision.datasets.sized import Sized, forms

OnDisk = PascalData | NyudData | FolderData


def open_source(config: VisionConfig, split: str) -> Any:
    """A random-access source of examples at the run's size, for training with `draw(index, rng)` where it augments.

    Args:
      split: `train` or `val`.

    Raises:
      UserError: the data set is not where the config says, or not whole.
    """
    return OPEN[type(config.data)](config.data, config, split)


def _scenes(data: ScenesData, config: VisionConfig, split: str) -> scenes.Scenes:
    length = data.train_length if split == "train" else data.val_length
    return scenes.Scenes(config.backbone.image_size, length, split, config.seed, tuple(config.tasks))


def _mixture(data: MixtureData, config: VisionConfig, split: str) -> Mixture:
    """Its sources' examples have one form: labels that a source lacks are there, marked missing."""
    whole, size = forms(config.task_objects()), config.backbone.image_size
    parts = []
    for source in data.sources.values():
        labels = labels_of(source, config.tasks)
        own = replace(config, data=source, tasks={name: t for name, t in config.tasks.items() if name in labels})
        part = open_source(own, split)
        parts.append(replace(part, forms=whole) if isinstance(part, Sized) else Sized(part, whole, size))
    if data.order == "turns":
        return Mixture(tuple(parts))
    weights = [data.weights[name] for name in data.sources] if data.weights else None
    return Mixture(tuple(parts), shares_of([len(part) for part in parts], weights, data.temperature))


def _sized(data: OnDisk, config: VisionConfig, split: str) -> Sized:
    motion = transforms.DRAWS.get(KINDS[type(data)].augment(data))
    return Sized(
        open_native(data, config, split),
        forms(config.task_objects()),
        config.backbone.image_size,
        motion,
        preset(data),
    )


OPEN = {
    ScenesData: _scenes,
    PascalData: _sized,
    NyudData: _sized,
    FolderData: _sized,
    MixtureData: _mixture,
}


# --- data sets of files, at native sizes


def open_native(data: OnDisk, config: VisionConfig, split: str) -> Files | Prepared:
    """The examples as they are kept, of any sizes."""
    kind, tasks = KINDS[type(data)], tuple(config.tasks)
    if getattr(data, "prepared", None) is not None:
        return Prepared(kind.augment(data), split, tasks, data.prepared)
    return kind.open(data, config, split)


def preset(data: OnDisk) -> transforms.Preset:
    """The transforms' preset; the mended one turns normals in the frame that the files have them in."""
    found = transforms.PRESETS[data.preset]
    return found if data.preset == "published" else replace(found, y_up=data.normals_y == "up")


def label_values(data: OnDisk, config: VisionConfig) -> dict[str, int]:
    """How many values labels can have, of the tasks that count them; files are held to it."""
    classes = {name: t.channels for name, t in config.task_objects().items() if name in ("semseg", "human_parts")}
    masks = {"saliency": 2, "edges": 2} if getattr(data, "masks", None) == "classes" else {}
    return classes | masks


@dataclass(frozen=True)
class Kind:
    """What there is to know of one kind of data set on disk, each a function of its config.

    Attributes:
      layout: where its files lie.
      augment: the name of its random motions.
      open: `(data, config, split) -> ` its examples.
    """

    layout: Callable[[Any], Layout]
    augment: Callable[[Any], str]
    open: Callable[[Any, VisionConfig, str], Files]


def _pascal(data: PascalData, config: VisionConfig, split: str) -> Files:
    return pascal_context.pascal_context(
        data.root, split, tuple(config.tasks), label_values(data, config), data.resize_labels
    )


def _nyud(data: NyudData, config: VisionConfig, split: str) -> Files:
    return nyud.nyud(data.root, split, tuple(config.tasks), label_values(data, config), data.resize_labels)


def _folder_layout(data: FolderData) -> Layout:
    return folder.layout(data.folders, data.images, data.masks, data.depth_unit)


def _folder(data: FolderData, config: VisionConfig, split: str) -> Files:
    files, tasks = _folder_layout(data), tuple(config.tasks)
    return open_files(data.root, files, split, tasks, label_values(data, config), data.resize_labels, data.gaps)


KINDS = {
    PascalData: Kind(lambda data: pascal_context.LAYOUT, lambda data: "pascal", _pascal),
    NyudData: Kind(lambda data: nyud.LAYOUT, lambda data: "nyud", _nyud),
    FolderData: Kind(_folder_layout, lambda data: data.augment, _folder),
}

"""Opening vision data sets as a run does, or by the names of tasks."""

from mtlora_jax.vision.datasets.nyud import NyudData
from mtlora_jax.vision.datasets.pascal_context import PascalData
from mtlora_jax.vision.datasets.prepared import published_tasks


def opened(config, split):
    """The examples of a config, as it trains on them or is scored by them."""
    return config.data.open(split, config.make_tasks(), config.backbone.image_size)


def native(config, split):
    """The same at the sizes they are kept in."""
    return config.data.native(split, config.make_tasks(), config.backbone.image_size)


def pascal_context(root, split, names=(), resize=False):
    data = PascalData(root=str(root), resize_labels=resize)
    return data.native(split, published_tasks(data, names))


def nyud(root, split, names=(), resize=False):
    data = NyudData(root=str(root), resize_labels=resize)
    return data.native(split, published_tasks(data, names))

"""Which domain a config belongs to: the one table that knows them all."""

from importlib import import_module

from mtlora_jax.config import Config
from mtlora_jax.engine.workload import Workload

DOMAINS = {
    "VisionConfig": "mtlora_jax.vision.workload",
    "PretrainConfig": "mtlora_jax.vision.pretrain",
    "TextConfig": "mtlora_jax.text.workload",
    "TextPretrainConfig": "mtlora_jax.text.pretrain",
}


def workload_of(config: Config) -> Workload:
    """The workload of a resolved config; imports its domain and no other."""
    return import_module(DOMAINS[type(config).__name__]).make_workload(config)

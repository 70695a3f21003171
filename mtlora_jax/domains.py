"""Which domain a config belongs to: the one table that knows them all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError

if TYPE_CHECKING:
    from mtlora_jax.engine.workload import Workload

DOMAINS = {
    "mtlora_jax.vision.config:VisionConfig": "mtlora_jax.vision.workload",
    "mtlora_jax.vision.pretrain:PretrainConfig": "mtlora_jax.vision.pretrain",
    "mtlora_jax.text.config:TextConfig": "mtlora_jax.text.workload",
    "mtlora_jax.text.pretrain:TextPretrainConfig": "mtlora_jax.text.pretrain",
    "mtlora_jax.image_text.config:ImageTextConfig": "mtlora_jax.image_text.workload",
    "mtlora_jax.image_text.pretrain:BartPretrainConfig": "mtlora_jax.image_text.pretrain",
}
"""A domain's config class -> the module whose `make_workload(config)` makes its workload."""


def domain_of(config: Config) -> str:
    """The module of a config's domain, found by its class or a class that it is derived from.

    Raises:
      UserError: it is the config of no domain.
    """
    for cls in type(config).__mro__:
        if module := DOMAINS.get(f"{cls.__module__}:{cls.__qualname__}"):
            return module
    known = ", ".join(name.rpartition(":")[2] for name in DOMAINS)
    raise UserError(f"{type(config).__name__} is the config of no domain: get_config() returns one of {known}")


def workload_of(config: Config) -> Workload:
    """The workload of a resolved config, a sweep's if it has one; imports its domain and no other."""
    if config.sweep:
        from mtlora_jax.engine.sweep import Swept

        return Swept(config, workload_of).workload()
    return import_module(domain_of(config)).make_workload(config)

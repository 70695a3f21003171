"""The adapter methods by name. A new method is one file and one row here."""

from types import ModuleType

from mtlora_jax.adapters import full, lora, mtlora
from mtlora_jax.adapters.spec import Spec

METHODS: dict[str, ModuleType] = {
    "full": full,
    "lora": lora,
    "mtlora": mtlora,
}


def method_of(spec: Spec) -> ModuleType:
    """The pure functions that a spec's method consists of (see `mtlora_jax.adapters.spec`)."""
    return METHODS[spec.method]

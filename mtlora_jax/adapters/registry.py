"""The adapter methods by name. A new method is one file and one row here; one of your own adds itself to the dict.

METHODS["mine"] = sys.modules[__name__]
"""

from types import ModuleType

from mtlora_jax.adapters.methods import (
    dora,
    full,
    hydralora,
    lora,
    moelora,
    mtl_lora,
    mtl_lora_fused,
    mtlora,
    multilora,
)
from mtlora_jax.adapters.spec import Spec

METHODS: dict[str, ModuleType] = {
    "dora": dora,
    "full": full,
    "hydralora": hydralora,
    "lora": lora,
    "moelora": moelora,
    "mtl_lora": mtl_lora,
    "mtl_lora_fused": mtl_lora_fused,
    "mtlora": mtlora,
    "multilora": multilora,
}


def method_of(spec: Spec) -> ModuleType:
    """The pure functions that a spec's method consists of (see `mtlora_jax.adapters.spec`)."""
    return METHODS[spec.method]

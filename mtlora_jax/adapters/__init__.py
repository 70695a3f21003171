"""The adapter library: pure functions over leaves, one file per method, and thin Flax faces on them.

>>> import jax, jax.numpy as jnp
>>> from mtlora_jax import adapters
>>> spec = adapters.LoRA(rank=2, scale=0.5)
>>> leaves = adapters.lora.init(spec, jax.random.key(0), 8, 4)
>>> kernel, x = jnp.ones((8, 4)), jnp.ones((3, 8))
>>> adapters.lora.apply(spec, leaves, kernel, None, x).shape
(3, 4)
"""

from mtlora_jax.adapters.dense import Dense
from mtlora_jax.adapters.leaf import COLLECTION, TASKS
from mtlora_jax.adapters.merge import export, merge, sites
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
from mtlora_jax.adapters.methods.dora import DoRA
from mtlora_jax.adapters.methods.full import Full
from mtlora_jax.adapters.methods.hydralora import HydraLoRA
from mtlora_jax.adapters.methods.lora import LoRA
from mtlora_jax.adapters.methods.moelora import MoELoRA
from mtlora_jax.adapters.methods.mtl_lora import MTLLoRA
from mtlora_jax.adapters.methods.mtl_lora_fused import MTLLoRAFused
from mtlora_jax.adapters.methods.mtlora import MTLoRA
from mtlora_jax.adapters.methods.multilora import MultiLoRA
from mtlora_jax.adapters.registry import METHODS, method_of
from mtlora_jax.adapters.spec import CannotMerge, Spec, defaults
from mtlora_jax.adapters.streams import PARTS, Streams, shared, smap

__all__ = [
    "COLLECTION",
    "METHODS",
    "PARTS",
    "TASKS",
    "CannotMerge",
    "Dense",
    "DoRA",
    "Full",
    "HydraLoRA",
    "LoRA",
    "MTLLoRA",
    "MTLLoRAFused",
    "MTLoRA",
    "MoELoRA",
    "MultiLoRA",
    "Spec",
    "Streams",
    "defaults",
    "dora",
    "export",
    "full",
    "hydralora",
    "lora",
    "merge",
    "method_of",
    "moelora",
    "mtl_lora",
    "mtl_lora_fused",
    "mtlora",
    "multilora",
    "shared",
    "sites",
    "smap",
]

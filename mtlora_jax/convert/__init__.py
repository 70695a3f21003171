"""Checkpoints of other libraries, in and out. `python -m mtlora_jax.convert --help` is the command over these."""

from mtlora_jax.convert.image_text import bart, to_vl_bart_reference, vl_bart_reference
from mtlora_jax.convert.language import llama, mtl_lora_reference, to_mtl_lora_reference
from mtlora_jax.convert.reference import mtlora_reference, to_mtlora_reference

__all__ = [
    "bart",
    "llama",
    "mtl_lora_reference",
    "mtlora_reference",
    "to_mtl_lora_reference",
    "to_mtlora_reference",
    "to_vl_bart_reference",
    "vl_bart_reference",
]

"""Checkpoints of other libraries, in and out. `python -m mtlora_jax.convert --help` is the command over these."""

from mtlora_jax.convert.reference import mtlora_reference, to_mtlora_reference

__all__ = ["mtlora_reference", "to_mtlora_reference"]

"""A digest of a tree of weights, to recognise it by."""

import hashlib
from collections.abc import Mapping
from typing import Any

from mtlora_jax.weights.digest import digest


def fingerprint(tree: Mapping[str, Any], identity: str = "") -> str:
    """A digest of the paths, shapes, dtypes and bytes of a nested dict of arrays, however they are sharded.

    Args:
      identity: what else tells it from another one: heads and rotary settings are in no array.
    """
    found = hashlib.blake2b(identity.encode(), digest_size=16)
    for path, leaf in sorted(_flatten(tree)):
        found.update(f"{path}{leaf.shape}{leaf.dtype}{digest(leaf)}".encode())
    return found.hexdigest()


def _flatten(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        below = f"{path}/{name}" if path else name
        found += _flatten(value, below) if isinstance(value, Mapping) else [(below, value)]
    return found

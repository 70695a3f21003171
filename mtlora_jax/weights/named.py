"""Leaves that know where they are from."""

from collections.abc import Mapping
from typing import Any


class NamedLeaves(dict):
    """Leaves by path.

    Attributes:
      where: what messages call their source.
    """

    def __init__(self, leaves: Mapping[str, Any], where: str):
        super().__init__(leaves)
        self.where = where

"""A made-up world small enough to be known by heart: its facts, texts about it, and eight tasks that ask about it.

A tiny language model reads the texts; the tasks, in the formats of the eight commonsense sets, then ask in words it has
never seen for what it knows.
"""

from mtlora_jax.text.datasets.microworld.facts import World
from mtlora_jax.text.datasets.microworld.prose import plain_text
from mtlora_jax.text.datasets.microworld.questions import FAMILIES, rows

__all__ = ["FAMILIES", "World", "plain_text", "rows"]

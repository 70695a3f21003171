"""A made-up world small enough to be known by heart: its facts, texts about it, and eight tasks that ask about it.

A tiny language model reads the texts; the tasks, of the kinds of the eight commonsense sets, then ask in forms it has
never seen for what it knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlora_jax.input.by_task import check_tasks
from mtlora_jax.language.rows import Row
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.microworld.facts import World
from mtlora_jax.text.datasets.microworld.prose import plain_text
from mtlora_jax.text.datasets.microworld.questions import FAMILIES, rows

__all__ = ["FAMILIES", "MicroworldData", "World", "plain_text", "rows"]

PLAIN = 1 << 40
"""The random key of texts that pretraining, whose key is a run's seed, has not met."""


@dataclass(frozen=True)
class MicroworldData(Data):
    """The embedded data set: eight tasks about a made-up world.

    Attributes:
      train_length, val_length: rows of each task.
      world: seed of the world's facts; the embedded model knows world 0.
    """

    val_length: int = 128
    train_length: int = 4096
    world: int = 0

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        check_tasks(tasks, FAMILIES, "the micro-world")
        length = self.train_length if split == "train" else self.val_length
        return [row for task in tasks for row in rows(task, split, length, World(self.world))]

    def plain(self, length: int) -> Sequence[str]:
        world = World(self.world)
        streams = (np.random.Philox(key=[PLAIN, i]) for i in range(length))
        return [plain_text(world, np.random.Generator(stream)) for stream in streams]

    def answers(self, task: str) -> Sequence[str]:
        return FAMILIES[task].answers if task in FAMILIES else ()

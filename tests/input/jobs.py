"""What the workers of `test_prefetch` and `test_loader` run; imports little, since each of them imports it."""

import os
from dataclasses import dataclass

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.input.protocols import Examples


@dataclass(frozen=True)
class Numbers(Examples):
    """Examples that tell their index."""

    length: int = 10

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {
            "image": np.full((2, 2, 3), index, np.uint8),
            "labels": {"a": np.float32(index), "b": np.full(3, index)},
            "valid": {"a": np.bool_(index % 2), "b": np.bool_(True)},
            "id": np.int64(index),
        }


class Shifted(Numbers):
    """The same, augmented by a random number."""

    def augmented(self, index, rng):
        return {**self[index], "shift": rng.random()}


def process_id(step):
    return os.getpid()


def large(step):
    return np.full(1 << 18, step)


class Unpicklable(Exception):
    pass


def fail(step):
    if step == 2:
        raise UserError("image 2 is truncated")
    if step == 3:
        raise Unpicklable(lambda: None)
    return step


def die(step):
    os._exit(9)

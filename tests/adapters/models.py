"""A model of adapted layers one below the other, to have paths."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtlora_jax.adapters import Dense, Spec


def noisy(tree):
    """The tree with every leaf moved, so that no update is zero."""
    rng = np.random.default_rng(4)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


class Model(nn.Module):
    """Layers one below the other, to have paths."""

    adapter: Spec | None = None
    slots: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Dense(6, adapter=self.adapter, slots=self.slots, name="first")(x, train=train)
        return Inner(self.adapter, name="inner")(x)


class Inner(nn.Module):
    adapter: Spec | None

    @nn.compact
    def __call__(self, x):
        return Dense(4, adapter=self.adapter, name="second")(x)

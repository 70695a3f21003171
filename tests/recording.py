"""An optimizer that remembers what it was given."""

import jax
import jax.numpy as jnp
import optax


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer, with the gradients that it was given last kept in its state, as `state["grads"]`."""

    def update(grads, state, params=None, **extra):
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        return updates, {"grads": grads, "inner": inner}

    return optax.GradientTransformationExtraArgs(
        lambda params: {"grads": jax.tree.map(jnp.zeros_like, params), "inner": optimizer.init(params)}, update
    )

"""The optimizer: AdamW over the table's labels, clipped by the trainable leaves' norm, with the published schedule."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mtlora_jax.config import Optim

CLIP_EPS = 1e-6
"""Added to the norm by the reference's clipping; optax's own adds nothing."""


def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """Learning rate of update g = 0, 1, ...

    Linear warmup from `lr_warmup` to `lr` over W updates, then a cosine or a straight line to `lr_min` at update
    `steps`. As MTLoRA trains, with a cosine, update g uses the value of index max(g - 1, 0), which its scheduler sets
    after update g - 1; as MTL-LoRA trains, with a line, that of index g. `optim.steps`, where it is given, counts for
    `steps`.
    """
    steps = optim.steps or steps
    warmup, lag = optim.warmup_steps, 0 if optim.schedule == "linear" else 1
    shapes = {
        "cosine": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),
        "linear": lambda done: 1 - done,
        "constant": jnp.ones_like,
    }

    def value(g):
        t = jnp.maximum(jnp.asarray(g, jnp.float32) - lag, 0)
        rising = optim.lr_warmup + t * (optim.lr - optim.lr_warmup) / max(warmup, 1)
        done = jnp.clip((t - warmup) / max(steps - warmup, 1), 0, 1)
        low = optim.lr if optim.schedule == "constant" else optim.lr_min
        return jnp.where(t < warmup, rising, low + (optim.lr - low) * shapes[optim.schedule](done))

    return value


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales updates by min(1, limit / (norm + 1e-6)), norm over all leaves together; 0 switches it off."""

    def update(updates, state, params=None):
        scale = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + CLIP_EPS))
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update) if limit else optax.identity()


def scale_by_adam(optim: Optim) -> optax.GradientTransformation:
    """Adam's direction; with `eps_corrected` unset, `sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)`."""
    adam = optax.scale_by_adam(optim.b1, optim.b2, optim.eps)
    if optim.eps_corrected:
        return adam

    def update(updates, state, params=None):
        # With v' = v / (1 - b2^t) the same as m' / (sqrt(v') + eps / sqrt(1 - b2^t)).
        _, state = adam.update(updates, state, params)
        c1, c2 = (1 - b ** state.count.astype(jnp.float32) for b in (optim.b1, optim.b2))

        def direction(m, v):
            return jnp.sqrt(c2) / c1 * m / (jnp.sqrt(v) + optim.eps)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def make_optimizer(
    optim: Optim, learning_rate: optax.Schedule, labels: Mapping
) -> optax.GradientTransformationExtraArgs:
    """AdamW for `decay`, Adam for `no_decay`, nothing for `unused`; clipped by the norm of all of them.

    Leaves that belong to one task keep their values and moments through a step in which no example has that task,
    unless `optim.absent_tasks` is `step`; their bias correction counts the steps they took. `update` takes
    `present={task: bool scalar}`.

    Args:
      learning_rate: see `schedule`.
      labels: a tree with the trainable tree's structure, of `label` or `label@task`.
    """

    def group(label: str) -> optax.GradientTransformation:
        kind, _, task = label.partition("@")
        if kind == "unused":
            return optax.set_to_zero()
        decay = optim.weight_decay if kind == "decay" else 0.0
        adamw = optax.chain(
            scale_by_adam(optim),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
        )
        if not task or optim.absent_tasks == "step":
            return adamw

        def is_present(step, present: Mapping, **extra):
            return present[task]

        return optax.transforms.conditionally_mask(adamw, is_present, forward_extra_args=True)

    groups = {label: group(label) for label in sorted(set(jax.tree.leaves(labels)))}
    return optax.chain(
        clip_by_global_norm(optim.clip_norm),
        optax.partition(groups, labels),
        optax.scale_by_learning_rate(learning_rate),
    )

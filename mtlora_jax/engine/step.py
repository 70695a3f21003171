"""One training step and one evaluation step, jitted over a mesh."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mtlora_jax.devices import traced_for
from mtlora_jax.engine.mesh import replicated
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.rewrite import rewritten
from mtlora_jax.engine.sharding import shardings
from mtlora_jax.engine.state import State
from mtlora_jax.engine.workload import Workload
from mtlora_jax.errors import UserError


def make_train_step(
    workload: Workload,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    seed: int,
    mesh: Mesh,
    accumulate: int = 1,
) -> Callable:
    """`(state, frozen, batch) -> (state, metrics)`.

    Args:
      accumulate: parts that a batch is computed in, one after the other; see `accumulated`.

    Gradients are taken of `state.trainable` alone. The step's randomness is a function of (seed, step). Metrics are
    float32 scalars: `loss`, `loss/<task>`, `grad_norm` (before clipping), and, where there is one, `lr`, the learning
    rate of this update. The state is donated.
    """

    def sums_of(trainable, mutable, frozen, batch, key):
        with traced_for(mesh):
            outputs, mutated = workload.forward(join(trainable, frozen, mutable), batch, key)
        return workload.sums(outputs, batch), {**mutable, **mutated}

    def at_once(state: State, frozen, batch):
        def loss_of(trainable):
            key = workload.step_key(seed, state.step)
            sums, mutable = sums_of(trainable, state.mutable, frozen, batch, key)
            losses = finish(workload, sums)
            return losses["loss"], (losses, mutable)

        (_, (losses, mutable)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        return losses, mutable, grads

    def in_parts(state: State, frozen, batch):
        parts = cut(batch, accumulate)
        keys = jax.vmap(lambda k: workload.step_key(seed, state.step * accumulate + k))(jnp.arange(accumulate))
        return accumulated(workload, partial(sums_of, frozen=frozen), state.trainable, state.mutable, parts, keys)

    def step(state: State, frozen, batch):
        losses, mutable, grads = (at_once if accumulate == 1 else in_parts)(state, frozen, batch)
        present = {task: valid.any() for task, valid in batch["valid"].items()}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, present=present)
        metrics = {"loss": losses.pop("loss"), **{f"loss/{task}": value for task, value in losses.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        if not workload.independent:
            metrics["lr"] = learning_rate(state.step)
        state = State(
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            opt_state=opt_state,
            mutable=mutable,
        )
        # Pinned: left alone, the compiler may cut the new state another way than the old one, and compile again.
        state = jax.lax.with_sharding_constraint(state, shardings(workload.axes, state, mesh))
        return state, jax.lax.with_sharding_constraint(metrics, replicated(mesh))

    return jax.jit(rewritten(step, mesh.devices.flat[0].platform), donate_argnums=0)


def cut(batch: Mapping, parts: int) -> dict:
    """A batch `[B, ...]` in parts, `[parts, B / parts, ...]`, each with examples of every device: none moves."""

    def of(x: jax.Array) -> jax.Array:
        if x.shape[0] % parts:
            raise UserError(f"train.accumulate = {parts} does not divide a batch of {x.shape[0]} rows")
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    return jax.tree.map(of, dict(batch))


def accumulated(
    workload: Workload, sums_of: Callable, trainable: Any, mutable: Any, parts: Mapping, keys: jax.Array
) -> tuple[dict[str, jax.Array], Any, Any]:
    """The losses of a batch that is computed in parts, what the forward pass left, and the losses' gradient.

    Statistics are added up over all parts before anything is divided, so that it is the batch's gradient and no mean of
    the parts'. A loss divides by counts that the weights have no part in: its derivative by the other statistics is
    known without a forward pass, which the compiler then leaves out. Collections that the forward pass rewrites go from
    part to part; batch statistics are a part's.

    Args:
      sums_of: `(trainable, mutable, batch=, key=) -> (sums, mutable)`.
      parts: see `cut`.
      keys: one for each part.
    """

    def float_sums(trainable, mutable, part):
        batch, key = part
        sums, mutable = sums_of(trainable, mutable, batch=batch, key=key)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), sums), mutable

    def forward(mutable, part):
        sums, mutable = float_sums(trainable, mutable, part)
        return mutable, sums

    def backward(carry, part):
        mutable, grads = carry
        sums, pull, mutable = jax.vjp(lambda trainable: float_sums(trainable, mutable, part), trainable, has_aux=True)
        return (mutable, jax.tree.map(jnp.add, grads, *pull(slopes))), sums

    def added(each):
        return jax.tree.map(lambda x: x.sum(0), each)

    before = added(jax.lax.scan(forward, mutable, (parts, keys))[1])
    slopes = jax.grad(lambda sums: finish(workload, sums)["loss"])(before)
    nothing = jax.tree.map(jnp.zeros_like, trainable)
    (mutable, grads), each = jax.lax.scan(backward, (mutable, nothing), (parts, keys))
    return finish(workload, added(each)), mutable, grads


def finish(workload: Workload, sums: Mapping) -> dict[str, jax.Array]:
    """`loss`, the total, and every task's own."""
    losses = {task: jnp.asarray(o.finish(sums[task]), jnp.float32) for task, o in workload.objectives.items()}
    if workload.total is not None:
        return {"loss": workload.total(losses, sums), **losses}
    return {"loss": sum(o.weight * losses[task] for task, o in workload.objectives.items()), **losses}


def make_eval_step(workload: Workload, mesh: Mesh) -> Callable:
    """`(variables, batch) -> (loss sums, per-example statistics, which examples are valid, outputs)`; all by task but
    the last, and the same on every device."""

    def step(variables, batch):
        with traced_for(mesh):
            outputs, _ = workload.forward(variables, batch, None)
        return workload.sums(outputs, batch), workload.measure(outputs, batch), batch["valid"], outputs

    return jax.jit(step, out_shardings=replicated(mesh))

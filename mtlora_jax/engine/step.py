"""One training step and one evaluation step, jitted over a mesh."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mtlora_jax.engine.mesh import replicated
from mtlora_jax.engine.partition import join
from mtlora_jax.engine.rewrite import rewritten
from mtlora_jax.engine.sharding import shardings
from mtlora_jax.engine.state import State
from mtlora_jax.engine.workload import Workload


def make_train_step(
    workload: Workload,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    seed: int,
    mesh: Mesh,
) -> Callable:
    """`(state, frozen, batch) -> (state, metrics)`.

    Gradients are taken of `state.trainable` alone. The step's randomness is a function of (seed, step). Metrics are
    float32 scalars: `loss`, `loss/<task>`, `grad_norm` (before clipping), and, where there is one, `lr`, the learning
    rate of this update. The state is donated.
    """

    def loss_of(trainable, state, frozen, batch, key):
        variables = join(trainable, frozen, state.mutable)
        outputs, mutated = workload.forward(variables, batch, key)
        losses = finish(workload, workload.sums(outputs, batch))
        return losses.pop("loss"), (losses, mutated)

    def step(state: State, frozen, batch):
        key = workload.step_key(seed, state.step)
        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (losses, mutated)), grads = differentiate(state.trainable, state, frozen, batch, key)
        present = {task: valid.any() for task, valid in batch["valid"].items()}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, present=present)
        metrics = {"loss": loss, **{f"loss/{task}": value for task, value in losses.items()}}
        metrics["grad_norm"] = optax.tree.norm(grads)
        if not workload.independent:
            metrics["lr"] = learning_rate(state.step)
        state = State(
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            opt_state=opt_state,
            mutable={**state.mutable, **mutated},
        )
        # Pinned: left alone, the compiler may cut the new state another way than the old one, and compile again.
        state = jax.lax.with_sharding_constraint(state, shardings(workload.axes, state, mesh))
        return state, jax.lax.with_sharding_constraint(metrics, replicated(mesh))

    return jax.jit(rewritten(step, mesh.devices.flat[0].platform), donate_argnums=0)


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
        outputs, _ = workload.forward(variables, batch, None)
        return workload.sums(outputs, batch), workload.measure(outputs, batch), batch["valid"], outputs

    return jax.jit(step, out_shardings=replicated(mesh))

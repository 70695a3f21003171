"""Choosing among the leaves that tasks own: by name when a task is merged, by id for every example."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.leaf import TASKS
from mtlora_jax.adapters.spec import CannotMerge
from mtlora_jax.adapters.streams import Streams


def check_names(method: str, tasks: Sequence[str]) -> None:
    """Raises ValueError unless there are tasks, each named once."""
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"{method} needs one or more tasks, each given once, not {tuple(tasks)}")


def id_of(method: str, tasks: Sequence[str], task: str | None) -> int:
    """A task's id. Raises `CannotMerge` for none or another: every task has an update of its own."""
    if task not in tasks:
        raise CannotMerge(f"{method} has an update per task: name one of {', '.join(tasks)}, not {task}")
    return tasks.index(task)


def own_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """U(-1/sqrt(n), 1/sqrt(n)) for a vector of n."""
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def stacked(tasks: Sequence[str], leaves: Mapping, name: str) -> jax.Array:
    """`[T, ...]`, the leaf `tasks/<task>/<name>` of every task. Stored apart, so that tasks come and go alone."""
    return jnp.stack([leaves[TASKS][task][name] for task in tasks])


def check_task_id(method: str, task_id: jax.Array | None, x: jax.Array | Streams) -> None:
    """Raises ValueError unless `x` is an array `[B, ..., in]` and each of its examples, or tokens, has a task id."""
    if isinstance(x, Streams):
        raise ValueError(f"{method} takes no task streams: every example belongs to one task, named by task_id")
    if task_id is None:
        raise ValueError(f"{method} needs task_id, [B] or [B, L]: which task each example belongs to")
    if (shape := jnp.shape(task_id)) not in (x.shape[:1], x.shape[:2][: x.ndim - 1]):
        raise ValueError(f"task_id has shape {shape}, an input {x.shape} needs {x.shape[:1]} or {x.shape[:2]}")


def pick(table: jax.Array, task_id: jax.Array, ndim: int | None = None) -> jax.Array:
    """The row of `table [T, n, ...]` for every id, and NaN for an id that has no row.

    Args:
      ndim: number of axes of the array that the result is multiplied with: axes of length 1 follow the ids' own.
    """
    ids = jnp.asarray(task_id)
    # Negative ids would count from the end.
    ids = jnp.where(ids < 0, table.shape[0], ids)
    rows = jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)
    if ndim is None:
        return rows
    own = rows.shape[ids.ndim :]
    return rows.reshape(*ids.shape, *(1,) * (ndim - ids.ndim - len(own)), *own)

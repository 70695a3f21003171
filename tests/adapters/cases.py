"""Cases of every registered adapter method: layers with leaves away from their start, and how results are compared.

A case is a spec with small sizes; together a method's cases take every value of its options.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mtlora_jax.adapters import METHODS, Spec, Streams, method_of

B, N, IN, OUT = 3, 2, 4, 6
TASKS = ("a", "b", "c")
IDS = jnp.array([2, 0, 1])
SMALL = {"rank": 2, "experts": 2, "embedding": 3, "updates": 2}
"""Sizes of options of these names."""
ALIGNED = {int: (1, 2, 2), float: (2.0, 0.5, 1.5)}
"""Values of options `task_...` that have one entry for every task."""
KEY = jax.random.key(5)


def spec_class(method: str) -> type[Spec]:
    """The class of a registered method's specs."""
    found = [c for c in vars(METHODS[method]).values() if isinstance(c, type) and issubclass(c, Spec)]
    return next(c for c in found if getattr(c, "method", None) == method)


def cases_of(method: str) -> dict[str, Spec]:
    """A method's cases by name: all combinations of its named modes, every switch on and off, and dropout."""
    cls = spec_class(method)
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    fixed: dict[str, Any] = {name: SMALL[name] for name in names if name in SMALL}
    if "tasks" in names:
        fixed["tasks"] = TASKS
    for name in names:
        if name.startswith("task_") and get_origin(hints[name]) is tuple:
            fixed[name] = ALIGNED[get_args(hints[name])[0]]
    modes = {name: get_args(hints[name]) for name in names if get_origin(hints[name]) is Literal}
    cases = {}
    for values in product(*modes.values()):
        chosen = dict(zip(modes, values, strict=True))
        cases[", ".join((method, *map(str, values)))] = cls(**fixed, **chosen)
    for name in names:
        if hints[name] is bool:
            default = getattr(cls(**fixed), name)
            cases[f"{method}, {name}={not default}"] = cls(**fixed, **{name: not default})
    if "dropout" in names:
        cases[f"{method}, dropout"] = cls(**fixed, dropout=0.5)
    return cases


CASES: dict[str, Spec] = {name: spec for method in METHODS for name, spec in cases_of(method).items()}


@dataclass(frozen=True)
class Layer:
    """A layer with every leaf away from where it starts, and inputs for it."""

    spec: Spec

    @property
    def method(self):
        return method_of(self.spec)

    @property
    def tasks(self) -> tuple[str, ...]:
        return getattr(self.spec, "tasks", ())

    @cached_property
    def fresh(self) -> dict[str, Any]:
        return self.method.init(self.spec, jax.random.key(0), IN, OUT)

    @cached_property
    def leaves(self) -> dict[str, Any]:
        rng = np.random.default_rng(1)
        return jax.tree.map(lambda x: x + 0.5 * normal(rng, *x.shape), self.fresh)

    @cached_property
    def base(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias."""
        rng = np.random.default_rng(2)
        return normal(rng, IN, OUT), normal(rng, OUT)

    @cached_property
    def inputs(self) -> dict[str, jax.Array | Streams]:
        """What the layer may be given. Streams of a layer without tasks come from elsewhere: two of them."""
        rng = np.random.default_rng(3)
        x = normal(rng, B, N, IN)
        streams = Streams(x, normal(rng, len(self.tasks) or 2, B, N, IN))
        return {"array": x} | ({"streams": streams} if self.spec.takes_streams else {})

    def apply(self, leaves, x, task_id=IDS, **kwargs):
        task_id = task_id if self.spec.needs_task_id else None
        return self.method.apply(self.spec, leaves, *self.base, x, task_id=task_id, **kwargs)

    def streams(self) -> Iterator[str | None]:
        """What can be merged: a task, or None for the shared stream."""
        return iter((*(() if self.spec.needs_task_id else (None,)), *self.tasks))


@cache
def layer_of(name: str) -> Layer:
    layer = Layer(CASES[name])
    # Whoever asks first may be tracing; what is kept must be values.
    with jax.ensure_compile_time_eval():
        _ = layer.base, layer.leaves, layer.inputs
    return layer


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def flat(tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")


def parts(y: jax.Array | Streams, tasks: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """A result by stream, on the host: `shared` and the tasks."""
    if not isinstance(y, Streams):
        return {"shared": np.asarray(y)}
    tasks = tasks or tuple(f"stream {i}" for i in range(len(y.tasks)))
    return {"shared": np.asarray(y.shared), **dict(zip(tasks, np.asarray(y.tasks), strict=True))}


def plain(x, kernel, bias) -> np.ndarray:
    """A layer without an adapter."""
    return np.asarray(x) @ np.asarray(kernel) + np.asarray(bias)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, tolerance=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)

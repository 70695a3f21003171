"""Drawing a model's leaves, and computing nothing else of the model."""

from collections.abc import Callable

import jax
from flax import traverse_util
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from mtlora_jax.engine.program import everything, live_equations


def draw(init: Callable[[], dict], wanted: Callable[[str], bool] = lambda path: True) -> dict[str, jax.Array]:
    """The leaves of `init()` that are wanted, by their paths `collection/module/.../leaf`.

    Flax's own init is the one source of keys and initialisers. Compiling it whole takes half a minute, calling it
    runs the forward pass, so it is traced, cut back to what the wanted leaves depend on, and evaluated draw by
    draw: leaves of equal shape share their compiled code.
    """

    def leaves() -> dict[str, jax.Array]:
        flat = traverse_util.flatten_dict(init(), sep="/")
        return {path: leaf for path, leaf in flat.items() if wanted(path)}

    closed, shapes = jax.make_jaxpr(leaves, return_shape=True)()
    needed, _ = live_equations(closed.jaxpr, everything(closed.jaxpr.outvars))
    evaluate = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr.replace(eqns=[eqn for eqn, _ in needed]), closed.consts))
    return jax.tree.unflatten(jax.tree.structure(shapes), evaluate())

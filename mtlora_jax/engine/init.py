"""Drawing a model's leaves, and computing nothing else of the model."""

from collections.abc import Callable

import jax
from flax import traverse_util
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


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
    needed = {var for var in closed.jaxpr.outvars if not hasattr(var, "val")}
    kept = []
    for eqn in reversed(closed.jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            kept.append(eqn)
            needed.update(var for var in eqn.invars if not hasattr(var, "val"))
    evaluate = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr.replace(eqns=kept[::-1]), closed.consts))
    return jax.tree.unflatten(jax.tree.structure(shapes), evaluate())

"""What every adapter method promises.

A method is one file of pure functions over a dict of leaves; no Flax in them. A kernel is `[in, out]`, `spec` is the
method's frozen dataclass, and leaves are arrays by name; those that one task owns lie in `leaves["tasks"][task]`:

    declare(spec, d_in, d_out) -> leaves of `Leaf`                 what the adapter holds and how fresh leaves are drawn
    init(spec, key, d_in, d_out) -> leaves                         draws them from an explicit key
    apply(spec, leaves, kernel, bias, x, *, task_id=None, dropout_key=None) -> y
                                                                   the WHOLE result, base product included
    delta(spec, leaves, kernel, task=None) -> [in, out]            what one task adds to the kernel
    merge(spec, leaves, kernel, bias, task=None) -> (kernel, bias) a plain layer for one task
    export(spec, leaves, kernel, task=None) -> (A [in, R], B [R, out])   one task as plain LoRA: delta = A @ B

Most methods have nothing of their own to say about `init`, `delta` and `merge`: `defaults` makes them.

`x` is an array `[..., in]` or `Streams`, and the result is of the same type, except in a layer with task updates,
which turns an array into `Streams`. `apply` makes no random numbers of its own: without `dropout_key` it is
deterministic. All of it is jit-able, and differentiable to any order, in leaves, kernel, bias and x.

Where one task is not a linear map of one input, `delta`, `merge` and `export` raise `CannotMerge` with the reason;
nothing is approximated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mtlora_jax.adapters.leaf import draw


@dataclass(frozen=True)
class Spec:
    """Base of every method's hyper-parameters: frozen and hashable, so `jax.jit(apply, static_argnums=0)` takes it.

    Attributes:
      method: the method's key in `mtlora_jax.adapters.METHODS`.
      takes_streams: whether `x` may be `Streams`; where it may not, `apply` raises ValueError.
      needs_task_id: whether `apply` needs `task_id`, and raises ValueError without.
      dropout: probability of dropping an entry of the update's input; methods that have it make it a field.
    """

    method: ClassVar[str]
    takes_streams: ClassVar[bool] = True
    needs_task_id: ClassVar[bool] = False
    dropout = 0.0  # not annotated: as a field of this class it would come before those of a method


class CannotMerge(ValueError):
    """Merging or export would not be exact; the message gives the reason."""


def defaults(declare: Callable, export: Callable, delta: Callable | None = None) -> tuple[Callable, Callable, Callable]:
    """`(init, delta, merge)` of a method, from what it declares and exports.

    Args:
      declare, export: the method's.
      delta: the method's own, where the product of the exported pair is not the shortest way.
    """

    def init(spec: Spec, key, d_in: int, d_out: int) -> dict:
        """Fresh leaves, float32, each from a key of its own."""
        return draw(declare(spec, d_in, d_out), key)

    def product(spec: Spec, leaves, kernel, task: str | None = None):
        """What one task adds to the kernel, `[in, out]`: the product of the exported pair."""
        A, B = export(spec, leaves, kernel, task)
        return A @ B

    delta = delta or product

    def merge(spec: Spec, leaves, kernel, bias, task: str | None = None):
        """The plain layer of one task, `(kernel + delta, bias)`, rounded once to the kernel's dtype."""
        return (kernel + delta(spec, leaves, kernel, task)).astype(kernel.dtype), bias

    return init, delta, merge

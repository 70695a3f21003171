"""What every adapter method promises.

A method is one file of pure functions over a dict of leaves; no Flax in them. A kernel is `[in, out]`, leaves are
`{name: array}`, `spec` is the method's frozen dataclass:

    leaves(spec, d_in, d_out) -> {name: Leaf}                      what it holds and how fresh leaves are drawn
    init(spec, key, d_in, d_out) -> leaves                         draws them from an explicit key
    apply(spec, leaves, kernel, bias, x, *, task_id=None, dropout_key=None) -> y
                                                                   the WHOLE result, base product included
    delta(spec, leaves, kernel, task=None) -> [in, out]            what one task adds to the kernel
    merge(spec, leaves, kernel, bias, task=None) -> (kernel, bias) a plain layer for one task
    export(spec, leaves, kernel, task=None) -> (A [in, R], B [R, out])   one task as plain LoRA: delta = A @ B

`x` is an array `[..., in]` or `Streams`, and the result is of the same type, except where task streams are born:
a method with tasks turns an array into `Streams`. `apply` draws nothing of its own: without `dropout_key` it is
deterministic. All of it is jit-able, and differentiable to any order, in leaves, kernel, bias and x.

Where one task is no linear map of one input, `delta`, `merge` and
`export` raise `CannotMerge` with the reason; nothing is approximated.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Spec:
    """Base of every method's hyper-parameters: frozen and hashable, so `jax.jit(apply, static_argnums=0)` takes it.

    Attributes:
      method: its key in `mtlora_jax.adapters.METHODS`.
      dropout: of the update's input while training; methods that have it make it a field.
    """

    method: ClassVar[str]
    dropout = 0.0  # not annotated: as a field of this class it would come before those of a method


class CannotMerge(ValueError):
    """Merging or export would not be exact; the message gives the reason."""

"""MTL-LoRA of a fused projection, whose columns are slots such as q | k | v (`mLoRAMergedLinear` of the reference).

The adapted slots share one down-projection of rank k R and one transform per task over all of it, so that tasks may
mix the slots' subspaces; every slot then has up-projections of its own. Not the same as a separate MTL-LoRA for each
slot, which is `Dense(slots=...)`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtlora_jax.adapters.dropout import check_dropout
from mtlora_jax.adapters.leaf import TASKS, Leaf, Leaves, zeros
from mtlora_jax.adapters.methods.lora import affine
from mtlora_jax.adapters.methods.mtl_lora import identity, transformed
from mtlora_jax.adapters.spec import Spec, defaults
from mtlora_jax.adapters.task_ids import check_names, check_task_id, id_of, pick, stacked


@dataclass(frozen=True)
class MTLLoRAFused(Spec):
    """Hyper-parameters of one layer.

    Attributes:
      tasks, scale, up_projections, temperature, diagonal, dropout: as in `MTLLoRA`.
      rank: R of each slot.
      slots: names of the kernel's equal column blocks, in order.
      adapted: those that get an update.
      pooled: those of them that have U up-projections, mixed per task; the others have one.
    """

    method: ClassVar[str] = "mtl_lora_fused"
    takes_streams: ClassVar[bool] = False
    needs_task_id: ClassVar[bool] = True
    tasks: tuple[str, ...]
    rank: int = 8
    scale: float = 2.0
    up_projections: int = 3
    temperature: float = 0.1
    diagonal: bool = False
    dropout: float = 0.0
    slots: tuple[str, ...] = ("q", "k", "v")
    adapted: tuple[str, ...] = ("q", "k", "v")
    pooled: tuple[str, ...] = ("q", "k", "v")

    def __post_init__(self):
        check_names("fused MTL-LoRA", self.tasks)
        if self.rank < 1 or self.up_projections < 1 or not self.temperature > 0:
            raise ValueError(
                "fused MTL-LoRA needs rank and up_projections of at least 1 and a temperature above 0, not "
                f"{self.rank}, {self.up_projections} and {self.temperature}"
            )
        if len(set(self.slots)) < len(self.slots):
            raise ValueError(f"fused MTL-LoRA needs slots that are each named once, not {self.slots}")
        if not self.adapted or not set(self.pooled) <= set(self.adapted) <= set(self.slots):
            raise ValueError(
                f"fused MTL-LoRA adapts some of its slots {self.slots}, not {self.adapted}, and pools some of those, "
                f"not {self.pooled}"
            )
        check_dropout(self.dropout)

    @property
    def order(self) -> tuple[str, ...]:
        """The adapted slots in column order, which is that of their subspaces."""
        return tuple(slot for slot in self.slots if slot in self.adapted)


def declare(spec: MTLLoRAFused, d_in: int, d_out: int) -> Leaves:
    """`A [in, k R]`; `<slot>_B [U, R, per]`, unpooled `[R, per]`; below `tasks/<task>` the `transform [k R, k R]` (or
    `[k R]`) and `mix_<slot> [U]`. A and the logits are drawn from ranges of their own, as the reference's are.

    Raises:
      ValueError: the slots do not divide the width.
    """
    if d_out % len(spec.slots):
        raise ValueError(f"{len(spec.slots)} slots do not divide a layer {d_out} wide")
    R, U, per = spec.rank, spec.up_projections, d_out // len(spec.slots)
    width = R * len(spec.order)
    declared = {"A": Leaf((d_in, width), uniform(1 / (width * d_in)))}
    for slot in spec.order:
        declared[f"{slot}_B"] = Leaf((U, R, per) if slot in spec.pooled else (R, per), zeros)
    transform = Leaf((width,), jax.nn.initializers.ones) if spec.diagonal else Leaf((width, width), identity)
    mixes = {f"mix_{slot}": Leaf((U,), uniform(6 / U)) for slot in spec.order if slot in spec.pooled}
    return declared | {TASKS: {task: {"transform": transform, **mixes} for task in spec.tasks}}


def uniform(squared: float):
    """U(-b, b) with `b ** 2 = squared`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(squared**0.5), squared**0.5)

    return init


def mixture(spec: MTLLoRAFused, leaves, slot: str) -> jax.Array:
    """`p [T, U]` of one pooled slot; a float32 softmax."""
    return jax.nn.softmax(stacked(spec.tasks, leaves, f"mix_{slot}").astype(jnp.float32) / spec.temperature, axis=-1)


def apply(spec: MTLLoRAFused, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    """The layer's output; arguments, result and errors as in `mtl_lora.apply`."""
    check_task_id("fused MTL-LoRA", task_id, x)
    z = transformed(spec, leaves, x, task_id, dropout_key)
    parts = dict(zip(spec.order, jnp.split(z, len(spec.order), axis=-1), strict=True))
    columns = []
    for slot in spec.slots:
        if slot not in parts:
            columns.append(jnp.zeros((*x.shape[:-1], kernel.shape[1] // len(spec.slots)), x.dtype))
            continue
        part, B = parts[slot], leaves[f"{slot}_B"].astype(x.dtype)
        if slot in spec.pooled:
            p = pick(mixture(spec, leaves, slot).astype(x.dtype), task_id, x.ndim)
            part = (p[..., None] * part[..., None, :]).reshape(*x.shape[:-1], -1)
        columns.append(part @ B.reshape(-1, B.shape[-1]))
    return affine(x, kernel, bias) + spec.scale * jnp.concatenate(columns, axis=-1)


def export(spec: MTLLoRAFused, leaves, kernel, task: str | None = None):
    """`(A, s Λ_t B_t)` with B_t block-diagonal over the slots: one task is a plain LoRA of rank k R."""
    t = id_of("MTL-LoRA", spec.tasks, task)
    R, per = spec.rank, kernel.shape[1] // len(spec.slots)
    up = jnp.zeros((R * len(spec.order), kernel.shape[1]), leaves["A"].dtype)
    for row, slot in enumerate(spec.order):
        B = leaves[f"{slot}_B"]
        if slot in spec.pooled:
            p = mixture(spec, leaves, slot)[t].astype(B.dtype)
            B = jnp.einsum("u,uro->ro", p, B)
        column = spec.slots.index(slot)
        up = up.at[row * R : (row + 1) * R, column * per : (column + 1) * per].set(B)
    transform = leaves[TASKS][task]["transform"]
    return leaves["A"], spec.scale * (transform[:, None] * up if spec.diagonal else transform @ up)


init, delta, merge = defaults(declare, export)

"""The key tables of language adapters elsewhere: the MTL-LoRA reference's files, and the folders of the peft library.

A row's path and names are below one adapted projection; `rows` puts them below every layer of a model.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtlora_jax.adapters import MoELoRA, MTLLoRA, Spec
from mtlora_jax.errors import UserError
from mtlora_jax.weights.mapping import TRANSPOSED, Row, single, stack_of, stacked, twice

FIRST_TRANSPOSED = single(lambda x: x[0].T, lambda x: x.T[None])
"""`(1, R, in)` to `[in, R]`."""
EACH_TRANSPOSED = single(lambda x: x.transpose(0, 2, 1), lambda x: x.transpose(0, 2, 1))
"""`(U, out, R)` to `[U, R, out]`."""


def mtl_lora(spec: MTLLoRA) -> tuple[Row, ...]:
    """All tasks' transforms, and their mixing logits, are one tensor there."""
    return (
        Row("A", ("lora_A",), FIRST_TRANSPOSED),
        Row("B", ("lora_B",), EACH_TRANSPOSED),
        *(
            Row(f"tasks/{re.escape(task)}/transform", (f"lora_lambdas[{t}]",), TRANSPOSED)
            for t, task in enumerate(spec.tasks)
        ),
        *(Row(f"tasks/{re.escape(task)}/mix", (f"lora_B_w[{t}]",)) for t, task in enumerate(spec.tasks)),
    )


def moelora(spec: MoELoRA) -> tuple[Row, ...]:
    """Every expert is stored twice there, and its table of embeddings has a row too many."""

    def experts(name: str) -> Row:
        names = tuple(
            f"lora_{name}.lora{name}.{e}.{ending}" for ending in ("weight", "mlp.weight") for e in range(spec.experts)
        )
        return Row(name, names, twice(stack_of(TRANSPOSED)))

    table = "lora_task_embedding.weight"
    return (
        experts("A"),
        experts("B"),
        Row("gate", ("lora_gate.GateL.weight",), TRANSPOSED),
        Row("spare_embedding", (f"{table}[{len(spec.tasks)}]",)),
        *(Row(f"tasks/{re.escape(task)}/embedding", (f"{table}[{t}]",)) for t, task in enumerate(spec.tasks)),
    )


REFERENCE: Mapping[str, Callable[..., tuple[Row, ...]]] = {"mtl_lora": mtl_lora, "moelora": moelora}
"""By method; the reference trains its other adapters with the peft library."""


def reference_table(spec: Spec) -> tuple[Row, ...]:
    """The reference's rows below one projection. Raises UserError for a method that it lacks."""
    if spec.method not in REFERENCE:
        raise UserError(f"the reference has no {spec.method}: it saves {', '.join(REFERENCE)}")
    return REFERENCE[spec.method](spec)


PEFT = (
    Row("A", ("lora_A.weight",), TRANSPOSED),
    Row("B", ("lora_B.weight",), TRANSPOSED),
    Row("magnitude", ("lora_magnitude_vector",)),
)
"""LoRA and DoRA; a magnitude is absolute there, and a difference from the kernel's norms here."""
PEFT_PREFIX = "base_model.model."


def rows(
    adapters: Mapping[str, Spec],
    table: Callable[[Spec], tuple[Row, ...]],
    place: Callable[[str], tuple[str, Sequence[str]]],
) -> tuple[Row, ...]:
    """The key table of a model's adapters.

    Args:
      adapters: the adapter of every adapted projection, `self_attn/q_proj` and the like.
      table: the rows below one of them.
      place: where a projection is: its path below `lora`, and what it is called in each layer there.
    """
    found = []
    for site, spec in adapters.items():
        path, names = place(site)
        for row in table(spec):
            theirs = tuple(f"{name}.{n}" for name in names for n in row.names)
            found.append(Row(f"lora/{path}/{row.path}", theirs, stacked(row.layout, len(names))))
    return tuple(found)


def in_llama(layers: int, prefix: str = "") -> Callable[[str], tuple[str, list[str]]]:
    """Where a projection of a decoder of that many layers is; `prefix` stands before `model.layers` in their names."""

    def place(site: str) -> tuple[str, list[str]]:
        return f"layers/{site}", [f"{prefix}model.layers.{i}.{site.replace('/', '.')}" for i in range(layers)]

    return place


def norms(kernel: np.ndarray) -> np.ndarray:
    """`[layers, out]` float32, the norms of a stacked kernel's columns."""
    return np.linalg.norm(np.asarray(kernel, np.float32), axis=1)

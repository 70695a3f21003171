"""One layer's adapter under the names of the MTL-LoRA reference, and back: a pair of functions for each method.

A state is `{name below the layer: array}` in torch's layout, `[out, in]`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mtlora_jax.adapters import MoELoRA, MTLLoRA

Arrays = Mapping[str, np.ndarray]


class Names(NamedTuple):
    """How a method's leaves are kept elsewhere: `load(spec, state) -> leaves`, and `save`, its exact inverse."""

    load: Callable[..., dict[str, np.ndarray]]
    save: Callable[..., dict[str, np.ndarray]]


def load_mtl_lora(spec: MTLLoRA, state: Arrays) -> dict[str, np.ndarray]:
    own = {}
    for task, transform, mix in zip(spec.tasks, state["lora_lambdas"], state["lora_B_w"], strict=True):
        own |= {f"{task}_transform": transform.T, f"{task}_mix": mix}
    return {"A": state["lora_A"][0].T, "B": state["lora_B"].transpose(0, 2, 1), **own}


def save_mtl_lora(spec: MTLLoRA, leaves: Arrays) -> dict[str, np.ndarray]:
    return {
        "lora_A": leaves["A"].T[None],
        "lora_lambdas": np.stack([leaves[f"{task}_transform"].T for task in spec.tasks]),
        "lora_B": leaves["B"].transpose(0, 2, 1),
        "lora_B_w": np.stack([leaves[f"{task}_mix"] for task in spec.tasks]),
    }


def load_moelora(spec: MoELoRA, state: Arrays) -> dict[str, np.ndarray]:
    experts, tasks = range(spec.experts), (*spec.tasks, "spare")
    rows = state["lora_task_embedding.weight"]
    return {
        "A": np.stack([state[f"lora_A.loraA.{e}.weight"].T for e in experts]),
        "B": np.stack([state[f"lora_B.loraB.{e}.weight"].T for e in experts]),
        "gate": state["lora_gate.GateL.weight"].T,
        **{f"{task}_embedding": row for task, row in zip(tasks, rows, strict=True)},
    }


def save_moelora(spec: MoELoRA, leaves: Arrays) -> dict[str, np.ndarray]:
    state = {
        "lora_task_embedding.weight": np.stack([leaves[f"{task}_embedding"] for task in (*spec.tasks, "spare")]),
        "lora_gate.GateL.weight": leaves["gate"].T,
    }
    for e in range(spec.experts):
        for name in ("A", "B"):
            # Every expert is registered twice there.
            for place in ("weight", "mlp.weight"):
                state[f"lora_{name}.lora{name}.{e}.{place}"] = leaves[name][e].T
    return state


STATES: Mapping[str, Names] = {
    "mtl_lora": Names(load_mtl_lora, save_mtl_lora),
    "moelora": Names(load_moelora, save_moelora),
}
"""By method; the reference trains its other adapters with another library."""

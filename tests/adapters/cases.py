"""Every adapter method with every value of its options, as small layers; and what each computes, in plain loops."""

from dataclasses import dataclass
from functools import cache, cached_property

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.adapters import (
    DoRA,
    Full,
    HydraLoRA,
    LoRA,
    MoELoRA,
    MTLLoRA,
    MTLLoRAFused,
    MTLoRA,
    MultiLoRA,
    Spec,
    Streams,
    method_of,
)

B, N, IN, OUT = 2, 3, 4, 5
TWO = {"tasks": ("a", "b"), "task_ranks": (1, 2), "task_scales": (2.0, 0.5)}

# Shapes are the same wherever they can be: compiling is what costs.
CASES: dict[str, Spec] = {
    "lora": LoRA(rank=3),
    "lora, scaled": LoRA(rank=3, scale=0.5, dropout=0.5),
    "full": Full(("a", "b")),
    "no tasks": MTLoRA(rank=3, scale=3.0, dropout=0.5),
    "no tasks, trainable scale": MTLoRA(rank=3, mode="addition", trainable_scale=True),
    "lora_only": MTLoRA(rank=3, mode="lora_only", **TWO),
    **{
        f"{mode}, {base}{', trainable scales' * trainable}": MTLoRA(
            rank=3,
            scale=1.5,
            mode=mode,
            task_base=base,
            trainable_scale=trainable,
            trainable_task_scales=trainable,
            dropout=0.5 * trainable,
            **TWO,
        )
        for mode in ("matrix", "matrixv2", "addition")
        for base in ("shared", "per_task")
        for trainable in (False, True)
    },
    "a task of rank 0": MTLoRA(rank=3, tasks=("a", "b"), task_ranks=(0, 2), task_scales=(1.0, 1.0)),
}

THREE = ("a", "b", "c")
BY_TASK_ID: dict[str, Spec] = {
    "mtl_lora": MTLLoRA(THREE, rank=2, scale=1.5, temperature=0.3),
    "mtl_lora, diagonal": MTLLoRA(THREE, rank=2, diagonal=True, up_projections=1, dropout=0.5),
    "mtl_lora_fused": MTLLoRAFused(THREE, rank=2, temperature=0.5),
    "mtl_lora_fused, some slots": MTLLoRAFused(
        THREE, rank=2, diagonal=True, adapted=("q", "v"), pooled=("v",), dropout=0.5
    ),
    "dora": DoRA(rank=2, scale=1.5),
    "dora, exact": DoRA(rank=2, simple=False, dropout=0.5),
    "dora, magnitudes alone": DoRA(rank=0),
    "multilora": MultiLoRA(rank=2, scale=1.5, dropout=0.5),
    "moelora": MoELoRA(THREE, rank=4, experts=2, embedding=3, scale=1.5, dropout=0.5),
    "hydralora": HydraLoRA(rank=2, scale=1.5, dropout=0.5),
}
"""Methods in which every example has a task, or no method knows any."""


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
    def fresh(self) -> dict[str, jax.Array]:
        return self.method.init(self.spec, jax.random.key(0), IN, OUT)

    @cached_property
    def leaves(self) -> dict[str, jax.Array]:
        rng = np.random.default_rng(1)
        return {name: leaf + 0.5 * normal(rng, *leaf.shape) for name, leaf in self.fresh.items()}

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
        return {"array": x, "streams": Streams(x, normal(rng, len(self.tasks) or 2, B, N, IN))}

    def apply(self, leaves, x, **kwargs):
        return self.method.apply(self.spec, leaves, *self.base, x, **kwargs)


@cache
def layer_of(name: str) -> Layer:
    layer = Layer(CASES[name])
    # Whoever asks first may be tracing; what is kept must be values.
    with jax.ensure_compile_time_eval():
        _ = layer.base, layer.leaves, layer.inputs
    return layer


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def parts(y: jax.Array | Streams, tasks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A result by stream, on the host: `shared` and the tasks."""
    if not isinstance(y, Streams):
        return {"shared": np.asarray(y)}
    tasks = tasks or tuple(f"stream {i}" for i in range(len(y.tasks)))
    return {"shared": np.asarray(y.shared), **dict(zip(tasks, np.asarray(y.tasks), strict=True))}


def formula(layer: Layer, leaves, x) -> dict[str, np.ndarray]:
    """The published formulas, task by task, in float64 (see each method's docstring)."""
    spec = layer.spec
    kernel, bias = (np.asarray(m, np.float64) for m in layer.base)
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
    streams = {name: np.asarray(part, np.float64) for name, part in parts(x, layer.tasks).items()}
    x = streams["shared"]
    if isinstance(spec, LoRA):
        return {t: u @ kernel + bias + spec.scale * (u @ leaves["A"] @ leaves["B"]) for t, u in streams.items()}
    if isinstance(spec, Full):
        own = {t: streams.get(t, x) @ (kernel + leaves[f"{t}_delta"]) + bias for t in spec.tasks}
        return {"shared": x @ kernel + bias, **own}

    def update(name, scale, u):
        return leaves.get(f"{name}_scale", scale) * (u @ leaves[f"{name}_A"] @ leaves[f"{name}_B"])

    if not spec.tasks:
        return {t: u @ kernel + bias + update("shared", spec.scale, u) for t, u in streams.items()}
    result = {}
    for t, scale in zip(spec.tasks, spec.task_scales, strict=True):
        u = streams.get(t, x)
        of = x if spec.task_base == "shared" else u
        result[t] = of @ kernel + bias + update(t, scale, u)
        if spec.mode == "matrixv2":
            result[t] = result[t] + update("shared", spec.scale, of)
    y = x @ kernel + bias
    if spec.mode == "addition":
        total = sum(result.values())
        centred = total - total.mean(-1, keepdims=True)
        norm = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return {"shared": y + norm * leaves["norm_scale"] + leaves["norm_bias"], **result}
    return {"shared": y + update("shared", spec.scale, x), **result}

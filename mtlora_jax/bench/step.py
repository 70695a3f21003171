"""How long a training step takes, what it computes and moves, and how near that is to what the machine can do."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtlora_jax.config import Config
from mtlora_jax.domains import workload_of
from mtlora_jax.engine.flops import macs
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.process import return_memory
from mtlora_jax.engine.state import State, start
from mtlora_jax.engine.step import make_train_step
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.text.config import MicroworldData, TextConfig
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.model import DenseModel
from mtlora_jax.vision.trainable import Trainable
from mtlora_jax.vision.workload import make_model


def bench(config: Config, rounds: int = 10, plain: bool = False) -> dict:
    """Times the config's real step, transfer to the device included: on made-up images, or on rows of the micro-world.

    Args:
      rounds: timed steps; the first ones, which compile and warm up, are not among them.
      plain: also time, in turns with the config's own step, full fine-tuning of the same Swin without adapters; or
        plain LoRA of the same rank on the same language model.

    Returns:
      Environment, step times in seconds, images or tokens a second (padding not counted), FLOPs and bytes of the
      compiled program, measured ceilings and the ratio of the time they allow to the time it took.
    """
    programs = {"step": program_of(config)}
    if plain:
        programs["plain"] = program_of(config, plain=True)
    for program in programs.values():
        program.run()
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(program.run(burst()))

    rate, bandwidth = matmul_rate(getattr(config, "dtype", "float32")), copy_bandwidth()
    devices = len(jax.devices())
    report: dict[str, Any] = {"config": config.name, "batch_size": config.train.batch_size, **environment()}
    for name, program in programs.items():
        median = statistics.median(times[name])
        bound = max(program.flops / rate, program.bytes / bandwidth)
        report[name] = {
            "seconds_median": median,
            "seconds_min": min(times[name]),
            f"{program.unit}_per_second": program.amount / median,
            "compile_seconds": program.compile_seconds,
            "flops": program.flops * devices,
            "bytes": program.bytes * devices,
            "peak_bytes": program.peak_bytes,
            "bound_seconds": bound,
            "bound_over_measured": bound / median,
        }
    report["ceiling"] = {
        "flops_per_second": rate,
        "bytes_per_second": bandwidth,
        "how": "measured in this run",
    }
    if plain:
        report["over_plain"] = report["step"]["seconds_median"] / report["plain"]["seconds_median"]
    if isinstance(config, VisionConfig) and config.placement is not None:
        report["forward_macs_per_image"] = forward_macs(config)
    return report


def burst() -> int:
    """Steps that are timed together: one on a CPU, several where a transfer can hide behind a step."""
    return 1 if jax.default_backend() == "cpu" else 4


class Program:
    """A compiled training step with a state and a host batch to run it on; it has run once.

    Args:
      step: as `make_train_step` makes it.
      state, frozen: what it starts from, on the mesh.
      batch: of numpy arrays.
      amount, unit: how many images or tokens that is.
    """

    def __init__(self, step: Callable, state: State, frozen: dict, batch: dict, mesh: Mesh, amount: int, unit: str):
        self.state, self.frozen, self.batch, self.mesh = state, frozen, batch, mesh
        self.amount, self.unit = amount, unit
        began = time.perf_counter()
        self.step = step.lower(state, frozen, put_batch(batch, mesh)).compile()
        self.compile_seconds = time.perf_counter() - began
        cost, memory = self.step.cost_analysis(), self.step.memory_analysis()
        self.flops, self.bytes = float(cost.get("flops", 0)), float(cost.get("bytes accessed", 0))
        self.peak_bytes = int(memory.temp_size_in_bytes + memory.argument_size_in_bytes)
        self.run()
        return_memory()

    def run(self, steps: int = 1) -> float:
        """Seconds a step, from the host batch to the loss on the host; of several, each loss is read a step late, as
        training reads it, so that transfers hide behind steps."""
        began, late = time.perf_counter(), None
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.frozen, put_batch(self.batch, self.mesh))
            if late is not None:
                float(late)
            late = metrics["loss"]
        float(late)
        return (time.perf_counter() - began) / steps


def program_of(config: Config, plain: bool = False) -> Program:
    """A config's real step on made-up images and features, or on rows of the micro-world; no pretrained Swin or BART is
    read.

    Args:
      plain: what the config is compared with instead; see `plain_of`.
    """
    if isinstance(config, ImageTextConfig):
        from mtlora_jax.image_text.source import spec_of

        config = replace(config, init_from=None, model=spec_of(config))
    config = replace(config, init_from=None) if isinstance(config, VisionConfig) else config
    config = plain_of(config) if plain else config
    mesh, workload, B = make_mesh(config.mesh), workload_of(config), config.train.batch_size
    begin = start(workload, config, mesh)
    if isinstance(config, TextConfig) and isinstance(config.data, MicroworldData):
        batch = workload.train_batches(B).batch(config.seed, 0, range(B))
        amount, unit = int((batch["segment_ids"] > 0).sum()), "tokens"
    else:
        unit = "examples" if isinstance(config, ImageTextConfig) else "images"
        batch, amount = made_up(workload.abstract_batch(B)), B
    step = make_train_step(workload, begin.optimizer, begin.learning_rate, config.seed, mesh)
    return Program(step, begin.state, begin.frozen, batch, mesh, amount, unit)


def plain_of(config: Config) -> Config:
    """What a config's adapters are compared with: every weight of a Swin trained, or a LoRA."""
    if isinstance(config, TextConfig | ImageTextConfig):
        return replace(config, name="plain", adapter=replace(config.adapter, method="lora"))
    return replace(config, name="plain", placement=None, trainable=Trainable(all=True))


def made_up(abstract: Any) -> Any:
    """A host batch of the given shapes: random images, zero labels, everything valid."""
    rng = np.random.default_rng(0)

    def array(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == np.bool_:
            return np.ones(leaf.shape, bool)
        top = 2 if np.issubdtype(leaf.dtype, np.integer) and leaf.ndim < 4 else 255
        return rng.integers(0, top, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(array, abstract)


def forward_macs(config: VisionConfig) -> dict[str, float]:
    """Forward multiply-accumulates an image, in units of 10^9, ours and the published form's.

    The published form reduces every task stream by patch merging, then projects it; ours multiplies the two
    matrices first. Both exclude the last stage's shared output that nothing reads.
    """
    model = make_model(config)
    side = config.backbone.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
    plain = model.clone(placement=None)
    bare = jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))

    def forward(model: DenseModel) -> Callable:
        return lambda variables, x: model.apply(variables, x, method="logits")

    ours = macs(forward(model), variables, image)
    # What composing saves, per stage that merges: of every task stream's 4C -> 2C -> P, and of its adapter's
    # 4C -> R -> 2C -> P, the way through 2C; the composed matrices are made once.
    saved = 0
    for stage in range(config.backbone.stages - 1) if config.decoder_channels is not None else ():
        grid, W = config.backbone.feature_map(stage)
        P = config.decoder_channels[stage]
        spec = config.placement.spec("reduction", stage, True, tuple(config.tasks))
        R = spec.rank if spec else 0
        published, composed = 2 * W * W + 3 * W * R + W * P, 2 * W * P + 2 * W * R + R * P
        saved += len(config.tasks) * (grid**2 * (published - composed) - 2 * W * W * P - R * W * P)
    return {
        "ours": ours / 1e9,
        "published": (ours + saved) / 1e9,
        "plain_swin": macs(forward(plain), bare, image) / 1e9,
    }


def matmul_rate(dtype: str, side: int = 0) -> float:
    """FLOPs a second of a square matrix product, the best of several: what the step cannot exceed. Of random numbers,
    as a step's are."""
    side = side or (1024 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (side, side), dtype)
    return 2 * side**3 / _best(jax.jit(lambda a, b: a @ b), x, x)


def copy_bandwidth(megabytes: int = 0) -> float:
    """Bytes a second, read and written, of an elementwise pass over an array beyond every cache."""
    megabytes = megabytes or (256 if jax.default_backend() == "cpu" else 2048)
    x = jnp.ones(megabytes * 2**18, jnp.float32)
    return 2 * x.nbytes / _best(jax.jit(lambda a: a + 1), x)


def _best(fn: Callable, *args, rounds: int = 7) -> float:
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - began)
    return min(times)


def environment() -> dict[str, str | int]:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "platform": device.platform,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }

"""Scoring at native resolution, which is what users deploy: the network sees S by S, its logits go to the label's size.

The published protocol resizes labels to S by S instead; metrics of the two do not compare. Images of all sizes go
through in one pass, and one compiled program: logits are resized to every label's own size within a canvas as large as
the largest, and the rest of the canvas is void.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.hosts import everywhere, is_first
from mtlora_jax.engine.mesh import make_mesh, put_batch
from mtlora_jax.engine.metrics import empty, merge, update
from mtlora_jax.files import make_workdir
from mtlora_jax.input.loader import InOrder, prefetched
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.datasets.native_size import at_native_size
from mtlora_jax.vision.tasks import boundary

STRIP = 256
"""Rows of a large picture whose logits are held at a time."""


def decoded_at(decode: Callable, logits: jax.Array, height: int, width: int) -> np.ndarray:
    """One image's prediction at a size: logits `[h, w, C]` to decoded `[height, width, ...]`, by strips of rows."""
    size, strips = jnp.array([[height, width]]), []
    for top in range(0, height, STRIP):
        canvas = min(STRIP, height - top), width
        strips.append(np.asarray(decode(resize_to(logits[None], size, canvas, top)))[0])
    return np.concatenate(strips)


def resize_to(x: jax.Array, size: jax.Array, canvas: tuple[int, int], top: int = 0) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing, like `heads.resize`, but to a size for each image.

    Args:
      x: `[B, h, w, C]`.
      size: `[B, 2]` rows and columns.
      canvas: `(H, W)`, at least the largest size, or a strip of it.
      top: the row that the canvas begins at.

    Returns:
      `[B, H, W, C]`; beyond an image's size the values mean nothing.
    """
    rows = _weights(size[:, 0], x.shape[1], canvas[0], top)
    columns = _weights(size[:, 1], x.shape[2], canvas[1])
    x = jnp.einsum("byh,bhwc->bywc", rows, x.astype(jnp.float32), precision="highest")
    return jnp.einsum("bxw,bywc->byxc", columns, x, precision="highest")


def _weights(size: jax.Array, grid: int, length: int, first: int = 0) -> jax.Array:
    """`[B, length, grid]`: what each grid point gives to each pixel from the first on."""
    pixel = jnp.arange(first, first + length, dtype=jnp.float32) + 0.5
    centre = jnp.clip(pixel[None, :] * (grid / size.astype(jnp.float32))[:, None] - 0.5, 0, grid - 1)
    return jnp.maximum(0, 1 - jnp.abs(centre[:, :, None] - jnp.arange(grid, dtype=jnp.float32)[None, None, :]))


def evaluate_native(
    config: VisionConfig,
    forward: Callable,
    variables: Mapping,
    predictions: Path | None = None,
    with_boundary: bool = False,
    split: str = "val",
) -> dict[str, dict[str, float]]:
    """Every task's metrics at native resolution.

    Args:
      forward: `(variables, batch, None) -> (logits by task, _)`.
      predictions: a folder for `<task>/<name>` of every prediction, in the form that the task keeps them in: class
        numbers as png of 8 or 16 bits, probabilities times 255, normals as (n + 1) * 127.5, other numbers as npy.
      with_boundary: score edges by `odsF` as well (`tasks.boundary`); about a second an image.
    """
    from tqdm import tqdm

    tasks = config.make_tasks()
    examples, canvas = at_native_size(config.data, split, tasks, config.backbone.image_size)
    mesh, size = make_mesh(config.mesh), config.train.eval_batch_size or config.train.batch_size
    edges = with_boundary and "edges" in tasks
    if predictions is not None:
        make_workdir(predictions)

    @jax.jit
    def step(variables, batch):
        outputs, _ = forward(variables, batch, None)
        logits = {name: resize_to(outputs[name], batch["size"], canvas) for name in tasks}
        statistics = {name: t.measure(logits[name], batch["labels"][name]) for name, t in tasks.items()}
        wanted = tasks if predictions is not None else ("edges",) if edges else ()
        return statistics, {name: tasks[name].decode(logits[name]) for name in wanted}

    states = {name: empty() for name in tasks}
    state = empty()
    held_out = InOrder(examples, size)
    batches = prefetched(held_out, config.train.workers, config.train.worker_kind)
    for batch in tqdm(batches, "native", len(held_out), unit=" batches", leave=False, disable=None):
        host = {name: batch.pop(name) for name in ("id", "name")}
        statistics, decoded = everywhere(step(variables, put_batch(batch, mesh, whole=True)))
        for name in tasks:
            states[name] = update(states[name], statistics[name], batch["valid"][name])
        for row, (H, W) in enumerate(batch["size"]):
            # Rows that fill the last batch up repeat its last example: they are written once more, and count nothing.
            if predictions is not None and is_first():
                for name, t in tasks.items():
                    stem = predictions / name / str(host["name"][row])
                    stem.parent.mkdir(parents=True, exist_ok=True)
                    t.save(stem, decoded[name][row, :H, :W])
            if edges and batch["valid"]["edges"][row]:
                found = boundary.measure(decoded["edges"][row, :H, :W], batch["labels"]["edges"][row, :H, :W])
                state = merge(state, found)
    metrics = {name: t.compute(states[name]) for name, t in tasks.items()}
    if edges:
        metrics["edges"] |= boundary.compute(state)
    return metrics

"""Surface normals: the direction a surface faces, in the camera's frame (x right, y up, z to the viewer)."""

import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.metrics import ratio
from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.images.transforms import LabelTransform
from mtlora_jax.vision.tasks.colours import stripe
from mtlora_jax.vision.tasks.task import VOID, Task

WITHIN = (11.25, 22.5, 30.0)
"""Degrees; the share of pixels at most this far off is a metric."""


def unit(x):
    """`x / (|x| + 1e-12)` over the last axis; 0, with a finite gradient, where x is 0."""
    square = jnp.sum(x * x, -1, keepdims=True)
    return x / (jnp.sqrt(jnp.where(square > 0, square, 1.0)) + 1e-12)


def _norm(x):
    return jnp.sqrt(jnp.sum(x * x, -1))


def _sums(logits, label, valid):
    label = label.astype(jnp.float32)
    counted = (label != VOID) & valid[:, None, None, None]
    error = jnp.abs(unit(logits.astype(jnp.float32)) - label)
    return {"error": jnp.where(counted, error, 0.0).sum(), "elements": counted.sum(dtype=jnp.float32)}


def _finish(sums):
    return sums["error"] / jnp.maximum(sums["elements"], 1.0)


def _measure(logits, label):
    label = label.astype(jnp.float32)
    counted = jnp.all(label != VOID, -1)
    predicted, label = unit(logits.astype(jnp.float32)), jnp.where(counted[..., None], label, 0.0)
    cosine = jnp.sum(predicted * label, -1)
    angle = jnp.degrees(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)))
    truth = unit(label)
    angle_v2 = jnp.degrees(2 * jnp.arctan2(_norm(predicted - truth), _norm(predicted + truth)))

    def total(x):
        return jnp.where(counted, x, 0.0).sum((1, 2))

    return {
        "pixels": total(1.0),
        "angle": total(angle),
        "angle_squared": total(angle * angle),
        "angle_v2": total(angle_v2),
        "within": jnp.stack([total(angle <= limit) for limit in WITHIN], -1),
    }


def _compute(totals):
    mean = {name: ratio(total, totals["pixels"]) for name, total in totals.items()}
    return {
        "mean_angle": float(mean["angle"]),
        "rmse": float(np.sqrt(mean["angle_squared"])),
        "mean_angle_v2": float(mean["angle_v2"]),
        **{f"within_{limit:g}": float(share) for limit, share in zip(WITHIN, mean["within"], strict=True)},
    }


def _paint(normals):
    normals = np.asarray(normals, np.float32)
    void = np.all(normals == VOID, -1)
    picture = np.rint((np.where(void[..., None], 0, normals) + 1) * 127.5)
    return stripe(np.clip(picture, 0, 255).astype(np.uint8), void)


def _constant(labels, valid):
    labels = np.asarray(labels, np.float32)[np.asarray(valid, bool)]
    mean = labels[np.all(labels != VOID, -1)].sum(0, dtype=np.float64)
    length = np.linalg.norm(mean)
    return (mean / length if length > 0 else np.array([0, 0, 1])).astype(np.float32)


def _read(path, task, data):
    """Unit vectors; of length 0 where they are unknown. A png holds n = 2 v / 255 - 1, black where it is unknown."""
    if path.suffix == ".npy":
        normals = read.floats(read.array(path, "H", "W", "3"))
    else:
        code = read.colours(path)
        normals = np.where(code.any(-1, keepdims=True), code * np.float32(2 / 255) - np.float32(1), np.float32(0))
    if normals.shape[-1] != 3:
        raise UserError(f"{path}: holds {list(normals.shape)}; numbers [H, W, 3] are needed")
    known = np.isfinite(normals).all(-1, keepdims=True) & ~(normals == VOID).all(-1, keepdims=True)
    normals = np.where(known, normals, 0)
    if np.abs(normals).max(initial=0) > 1.01:
        raise UserError(f"{path}: normals have components up to {np.abs(normals).max():g}; unit vectors are needed")
    return normals


def _length(vectors):
    """`[H, W, 3] -> [H, W]`. Spelt out: numpy's reductions are slow along so short an axis."""
    x, y, z = (vectors[..., axis] for axis in range(3))
    return np.sqrt(x * x + y * y + z * z)


def _known(normals):
    return _length(np.where(normals == VOID, 0, normals)) > 0


def _turn(normals, augmentation, preset):
    """The vectors mirrored and turned with the picture."""
    normals = np.where(normals == VOID, 0, normals)
    x, y = normals[..., 0], normals[..., 1]
    x = -x if augmentation.flip else x
    angle = np.radians(augmentation.angle) * (1 if preset.y_up else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = normals.copy()
    turned[..., 0], turned[..., 1] = x * cos - y * sin, x * sin + y * cos
    return turned


def _settle(normals):
    length = _length(normals)
    normals = normals / (length + np.finfo(np.float64).eps)[..., None]
    normals[length == 0] = VOID
    return normals


def _save(stem, prediction):
    """As the reference writes them: `<stem>.png` of (n + 1) * 127.5."""
    return read.write_png(stem, np.clip(np.rint((prediction + 1) * 127.5), 0, 255).astype(np.uint8))


def _legend(labels):
    directions = {"right": (1, 0, 0), "left": (-1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0), "to you": (0, 0, 1)}
    return [(words, _paint(np.array([[n]]))[0, 0].tolist()) for words, n in directions.items()]


def normals() -> Task:
    """Surface normals from three outputs per pixel, made unit vectors; labels `[B, H, W, 3]` float32.

    Loss: the mean of |n - label| over non-void elements, three per pixel (published weight 10).

    Metrics, over the non-void pixels of the set, angles in degrees:
      mean_angle: acos(n . label), the label taken as it is. The paper's normals column, there called "rmse",
        since the reference sets its rmse to this mean.
      rmse: the true root of the mean squared angle.
      mean_angle_v2: the mean of 2 atan2(|n - g|, |n + g|), g the label made unit: exact at small angles too.
        The reference's second meter, whose "rmse_v2" is this mean again.
      within_11.25, within_22.5, within_30: the share of pixels at most that many degrees off.
    The prediction is drawn as the reference writes it, (n + 1) * 127.5.
    """
    return Task(
        name="normals",
        channels=3,
        weight=10.0,
        label_shape=(3,),
        label_dtype=np.float32,
        sums=_sums,
        finish=_finish,
        measure=_measure,
        compute=_compute,
        score="mean_angle",
        higher_is_better=False,
        decode=unit,
        paint=_paint,
        constant=_constant,
        transform=LabelTransform(VOID, cubic=True, known=_known, augment=_turn, settle=_settle),
        read=_read,
        save=_save,
        legend=_legend,
    )

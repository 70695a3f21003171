"""From an example of any size to one of S by S pixels, its labels moved with the image.

    train:     example -> draw a motion -> flip, turn and zoom -> resize -> mark what is unknown as void
    evaluate:  example -> resize -> mark

Two presets of the same steps: `PUBLISHED` is the reference's pipeline to the last pixel, slips included, and
published figures rest on it; `DEFAULT` mends the slips.

| step | published | default |
|---|---|---|
| cubic resampling leaves 0..255 | wraps around: 256 becomes 0, dark specks on bright rims | clipped |
| labels beyond the border of the moved image | 0: background, not salient, no edge | void |
| normals blended with unknown ones | known | void where the nearest is unknown |
| normals turned with the image | as if y pointed down | y up, as everywhere here |
| arithmetic of labels | float64, resampled even where nothing moves | their own dtype |

Images stay uint8; `normalise` is the reference's last step, taken on the device in training. OpenCV, the
reference's own resampler, is imported only where a picture really moves or changes its size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.vision.tasks.task import VOID

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, in 0..1."""


@dataclass(frozen=True)
class Preset:
    """What differs between the pipelines; see the table above.

    Attributes:
      clip: round and clip the image, rather than cast it with wrap-around.
      void_border: labels are void where nothing is known, rather than 0.
      y_up: the normals' y points up, rather than down.
      exact: resample labels in float64, and under a motion that moves nothing too, since OpenCV's path for
        float64 rounds otherwise and its cubic one is no identity at the rim.
    """

    clip: bool
    void_border: bool
    y_up: bool
    exact: bool


PUBLISHED = Preset(clip=False, void_border=False, y_up=False, exact=True)
DEFAULT = Preset(clip=True, void_border=True, y_up=True, exact=False)
PRESETS = {"published": PUBLISHED, "default": DEFAULT}


@dataclass(frozen=True)
class Motion:
    """One augmentation: mirror left and right, turn by `angle` degrees against the clock, zoom by `scale`."""

    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0


def pascal(rng) -> Motion:
    """PASCAL's augmentation: flip half of the images, angle in [-20, 20), scale in [0.75, 1.25).

    Args:
      rng: a `numpy.random.Generator`, or a `RandomState`, which replays the reference's draws from its seed.
    """
    return Motion(rng.random() < 0.5, 40 * rng.random() - 20, 0.5 * rng.random() + 0.75)


def nyud(rng) -> Motion:
    """NYUDv2's augmentation: flip half of the images, never turn, scale 1, 1.2 or 1.5."""
    flip = rng.random() < 0.5
    integers = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return Motion(flip, 0.0, (1.0, 1.2, 1.5)[integers(0, 3)])


DRAWS = {"pascal": pascal, "nyud": nyud}


def train(example: dict, rng, size: int, draw: Callable = pascal, preset: Preset = DEFAULT) -> dict:
    """The example moved as `draw(rng)` says, at `size` by `size`; see `move`."""
    return move(example, draw(rng), size, preset)


def evaluate(example: dict, size: int, preset: Preset = DEFAULT) -> dict:
    """The example only resized, to `size` by `size`: figures are of resized labels; see `move`."""
    return move(example, None, size, preset)


def settle(example: dict, preset: Preset = DEFAULT) -> dict:
    """The example at its own size, what is unknown marked as void; see `move`."""
    return move(example, None, None, preset)


def move(example: dict, motion: Motion | None, size: int | None, preset: Preset = DEFAULT) -> dict:
    """One example under one motion, resized to a square (the aspect ratio is not kept).

    Args:
      example: `image` uint8 `[H, W, 3]`, `labels` `{task: [H, W] or [H, W, 3]}` of any tasks; unknown normals
        and depths are 0 or void. Other entries pass through. Nothing is changed in place.
      motion: flip, rotation about the middle, and zoom; or None.
      size: S, pixels; None keeps the example's own.
      preset: `DEFAULT` or `PUBLISHED`.

    Returns:
      The same dict with `image` uint8 `[S, S, 3]` and labels `[S, S, ...]` of their own dtypes, void marked:
      normals of length 0, depths of 0, and all of `human_parts` where no part is seen.

    Raises:
      UserError: an image that is not uint8 `[H, W, 3]`, a label of another height or width, OpenCV missing.
    """
    image, labels = example["image"], example["labels"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise UserError(f"an image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    for task, label in labels.items():
        if label.shape[:2] != image.shape[:2]:
            sizes = f"{list(label.shape[:2])} and {list(image.shape[:2])}"
            raise UserError(f"{task}: label and image have different sizes, {sizes}; resize one beforehand")
    warp = motion is not None and (preset.exact or (motion.angle, motion.scale) != (0, 1))
    motion = motion or Motion()
    resample = partial(_resample, motion=motion, warp=warp, size=size)
    moved = {task: _move_label(task, label, motion, resample, preset) for task, label in labels.items()}
    return {**example, "image": _move_image(image, resample, preset), "labels": moved}


def normalise(image: np.ndarray) -> np.ndarray:
    """Float32 network input from uint8 `[..., 3]`: mean 0 and deviation 1 over ImageNet."""
    return (image.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)


def resize(pixels: np.ndarray, shape: tuple[int, int], *, cubic: bool) -> np.ndarray:
    """`[h, w, ...]` at `[H, W, ...]`: cubic, or nearest, which keeps values as they are."""
    cv2 = _opencv()
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST)


def _move_image(image, resample, preset):
    image = resample(image.astype(np.float32), cubic=True)
    if preset.clip:
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)
    # By way of int32: what a cast straight to uint8 makes of a float beyond its range is up to the processor.
    return image.astype(np.int32).astype(np.uint8)


def _move_label(task, label, motion, resample, preset):
    dtype, change, settle, cubic = label.dtype, CHANGE.get(task), SETTLE.get(task), task == "normals"
    label = label.astype(np.float64 if preset.exact else dtype, copy=True)
    if task in ("normals", "depth"):
        label[label == VOID] = 0  # a copy by now
    known = _length(label) > 0 if cubic else np.ones(label.shape, bool)
    if change:
        label = change(label, motion, preset)
    label = resample(label, cubic=cubic)
    if settle:
        label = settle(label)
    if preset.void_border:
        label[resample(known.astype(np.uint8), cubic=False) == 0] = VOID
    return label.astype(dtype)


def _turn_normals(normals, motion, preset):
    """The vectors mirrored and turned with the picture."""
    x, y = normals[..., 0], normals[..., 1]
    x = -x if motion.flip else x
    angle = np.radians(motion.angle) * (1 if preset.y_up else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = normals.copy()
    turned[..., 0], turned[..., 1] = x * cos - y * sin, x * sin + y * cos
    return turned


def _settle_normals(normals):
    length = _length(normals)
    normals = normals / (length + np.finfo(np.float64).eps)[..., None]
    normals[length == 0] = VOID
    return normals


def _length(vectors):
    """`[H, W, 3] -> [H, W]`. Spelt out: numpy's reductions are slow along so short an axis."""
    x, y, z = (vectors[..., axis] for axis in range(3))
    return np.sqrt(x * x + y * y + z * z)


def _settle_human_parts(parts):
    return parts if np.any((parts > 0) & (parts != VOID)) else np.full_like(parts, VOID)


# What a motion does to the values of a label, before the pixels move.
CHANGE = {
    "normals": _turn_normals,
    "depth": lambda depth, motion, preset: depth / motion.scale,
}

# What is done to a label at its final size; the unknown becomes void.
SETTLE = {
    "normals": _settle_normals,
    "depth": lambda depth: np.where(depth > 0, depth, VOID),
    "human_parts": _settle_human_parts,
}


def _resample(pixels, *, cubic, motion, warp, size):
    """The pixels `[H, W, ...]` flipped, warped about their middle (zeros from beyond), and resized."""
    height, width = pixels.shape[:2]
    shape = (height, width) if size is None else (size, size)
    if motion.flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if not warp and (height, width) == shape:
        return pixels.copy()
    cv2 = _opencv()
    flags = cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST
    if warp:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), motion.angle, motion.scale)
        pixels = cv2.warpAffine(pixels, matrix, (width, height), flags=flags)
    return resize(pixels, shape, cubic=cubic)


def _opencv():
    try:
        import cv2
    except ImportError:
        raise UserError("resampling needs OpenCV: pip install 'mtlora_jax[vision]'") from None
    return cv2

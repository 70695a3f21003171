"""From an example of any size to one of S by S pixels, its labels moved with the image.

    train:     example -> sample an augmentation -> flip, turn and zoom -> resize -> mark what is unknown as void
    evaluate:  example -> resize -> mark

What resizing and augmenting do to a label's values is the label's own affair, see `LabelTransform`. Two presets of the
same steps: `PUBLISHED` is the reference's pipeline to the last pixel, slips included, and published numbers rest on
it; `DEFAULT` mends the slips.

| step | published | default |
|---|---|---|
| cubic resampling leaves 0..255 | wraps around: 256 becomes 0, dark specks on bright rims | clipped |
| labels beyond the border of the moved image | 0: background, not salient, no edge | void |
| normals blended with unknown ones | known | void where the nearest is unknown |
| normals turned with the image | as if y pointed down | y up, as everywhere here |
| arithmetic of labels | float64, resampled even where nothing moves | their own dtype |

Images stay uint8; they are normalised on the device. OpenCV, the reference's own resampler, is imported only where a
picture really moves or changes its size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mtlora_jax.errors import UserError

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
      float64: resample labels in float64, and under an augmentation that moves nothing too, since OpenCV's path for
        float64 rounds otherwise and its cubic one changes pixels at the rim.
    """

    clip: bool
    void_border: bool
    y_up: bool
    float64: bool


PUBLISHED = Preset(clip=False, void_border=False, y_up=False, float64=True)
DEFAULT = Preset(clip=True, void_border=True, y_up=True, float64=False)
PRESETS = {"published": PUBLISHED, "default": DEFAULT}


@dataclass(frozen=True)
class Augmentation:
    """Mirror left and right, turn by `angle` degrees against the clock, zoom by `scale`."""

    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0


def pascal(rng) -> Augmentation:
    """PASCAL's augmentation: flip half of the images, angle in [-20, 20), scale in [0.75, 1.25).

    Args:
      rng: a `numpy.random.Generator`, or a `RandomState`, which replays the reference's draws from its seed.
    """
    return Augmentation(rng.random() < 0.5, 40 * rng.random() - 20, 0.5 * rng.random() + 0.75)


def nyud(rng) -> Augmentation:
    """NYUDv2's augmentation: flip half of the images, never turn, scale 1, 1.2 or 1.5."""
    flip = rng.random() < 0.5
    integers = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return Augmentation(flip, 0.0, (1.0, 1.2, 1.5)[integers(0, 3)])


SAMPLERS: Mapping[str, Callable[[Any], Augmentation]] = {"pascal": pascal, "nyud": nyud}
"""How the published data sets sample an augmentation from a generator, by name."""


def is_void(label: np.ndarray, void: float) -> np.ndarray:
    """Where a label `[...]` holds its void value, which may be NaN."""
    return np.isnan(label) if void != void else label == void


def unchanged(label: np.ndarray, *ignored: Any) -> np.ndarray:
    return label


@dataclass(frozen=True)
class LabelTransform:
    """What resizing and augmenting do to one kind of label. Its functions are module-level, so that it pickles.

    Attributes:
      void: the value that counts for nothing; NaN is possible.
      cubic: resample by cubic interpolation rather than take the nearest pixel.
      known: `label [H, W, ...] -> [H, W]` bool, where it says something; by default where it is not void.
      augment: `(label, augmentation, preset) -> label`, what the values become before the pixels move.
      settle: `label -> label`, applied at its final size: puts void where nothing is known.
    """

    void: float = 255
    cubic: bool = False
    known: Callable[[np.ndarray], np.ndarray] | None = None
    augment: Callable[[np.ndarray, Augmentation, Preset], np.ndarray] = unchanged
    settle: Callable[[np.ndarray], np.ndarray] = unchanged

    def where_known(self, label: np.ndarray) -> np.ndarray:
        """`[H, W]` bool, where a label `[H, W, ...]` says something."""
        if self.known is not None:
            return self.known(label)
        void = is_void(label, self.void)
        return ~(void if void.ndim == 2 else void.all(-1))


Rules = Mapping[str, LabelTransform]
"""By task."""


def train(example: dict, rules: Rules, rng, size: int, sample: Callable = pascal, preset: Preset = DEFAULT) -> dict:
    """The example under an augmentation that `sample(rng)` gives, at `size` by `size`; see `transform`."""
    return transform(example, rules, sample(rng), size, preset)


def evaluate(example: dict, rules: Rules, size: int, preset: Preset = DEFAULT) -> dict:
    """The example only resized, to `size` by `size`: metrics are of resized labels; see `transform`."""
    return transform(example, rules, None, size, preset)


def settle(example: dict, rules: Rules, preset: Preset = DEFAULT) -> dict:
    """The example at its own size, what is unknown marked as void; see `transform`."""
    return transform(example, rules, None, None, preset)


def transform(
    example: dict, rules: Rules, augmentation: Augmentation | None, size: int | None, preset: Preset = DEFAULT
) -> dict:
    """One example under one augmentation, resized to a square (the aspect ratio is not kept).

    Args:
      example: `image` uint8 `[H, W, 3]`, `labels` `{task: [H, W] or [H, W, C]}` of any tasks. Other entries pass
        through. Nothing is changed in place.
      rules: one for every task that has a label.
      augmentation: flip, rotation about the middle, and zoom; or None.
      size: S, pixels; None keeps the example's own.
      preset: `DEFAULT` or `PUBLISHED`.

    Returns:
      The same dict with `image` uint8 `[S, S, 3]` and labels `[S, S, ...]` of their own dtypes, void marked.

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
    moves = augmentation is not None and (preset.float64 or (augmentation.angle, augmentation.scale) != (0, 1))
    augmentation = augmentation or Augmentation()
    resample = partial(_resample, augmentation=augmentation, warp=moves, size=size)
    moved = {
        task: _transform_label(label, rules[task], augmentation, resample, preset) for task, label in labels.items()
    }
    return {**example, "image": _transform_image(image, resample, preset), "labels": moved}


def resize(pixels: np.ndarray, shape: tuple[int, int], *, cubic: bool) -> np.ndarray:
    """`[h, w, ...]` at `[H, W, ...]`: cubic, or nearest, which keeps values as they are."""
    cv2 = _opencv()
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST)


def _transform_image(image, resample, preset):
    image = resample(image.astype(np.float32), cubic=True)
    if preset.clip:
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)
    # By way of int32: what a cast straight to uint8 makes of a float beyond its range is up to the processor.
    return image.astype(np.int32).astype(np.uint8)


def _transform_label(label, rule: LabelTransform, augmentation, resample, preset):
    dtype = label.dtype
    label = label.astype(np.float64 if preset.float64 else dtype, copy=True)
    known = rule.where_known(label) if preset.void_border else None
    label = rule.settle(resample(rule.augment(label, augmentation, preset), cubic=rule.cubic))
    if known is not None:
        label[resample(known.astype(np.uint8), cubic=False) == 0] = rule.void
    return label.astype(dtype, copy=False)


def _resample(pixels, *, cubic, augmentation, warp, size):
    """The pixels `[H, W, ...]` flipped, warped about their middle (zeros from beyond), and resized."""
    height, width = pixels.shape[:2]
    shape = (height, width) if size is None else (size, size)
    if augmentation.flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if not warp and (height, width) == shape:
        return pixels.copy()
    cv2 = _opencv()
    flags = cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST
    if warp:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), augmentation.angle, augmentation.scale)
        pixels = cv2.warpAffine(pixels, matrix, (width, height), flags=flags)
    return resize(pixels, shape, cubic=cubic)


def _opencv():
    try:
        import cv2
    except ImportError:
        raise UserError("resampling needs OpenCV: pip install opencv-python-headless") from None
    return cv2

"""How dense labels are coloured: one palette maker, one ramp, and stripes for void in every task."""

import numpy as np

STRIPES = np.array([(224, 224, 192), (150, 150, 130)], np.uint8)
"""The two colours of void: stripes, because any single colour is also some normal, depth or class."""

# Viridis at nine even steps: equal steps of the value look equal, also in grey and to colour-blind eyes.
RAMP = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    np.float64,
)


def voc_palette(classes: int) -> np.ndarray:
    """The PASCAL VOC colours, `[classes, 3]` uint8: the index's bits dealt to red, green and blue in turn."""
    index = np.arange(classes)[:, None, None]
    place = np.arange(8)[None, :, None]
    channel = np.arange(3)[None, None, :]
    bit = (index >> (3 * place + channel)) & 1
    return (bit << (7 - place)).sum(1).astype(np.uint8)


def ramp(values: np.ndarray) -> np.ndarray:
    """Colours of `[H, W]` values in 0..1 (clipped), dark blue to yellow: `[H, W, 3]` uint8."""
    steps = np.linspace(0.0, 1.0, len(RAMP))
    return np.stack([np.rint(np.interp(values, steps, RAMP[:, c])) for c in range(3)], -1).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    """Greys of `[H, W]` values in 0..1 (clipped): `[H, W, 3]` uint8."""
    level = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.repeat(level[..., None], 3, -1)


def stripe(picture: np.ndarray, void: np.ndarray) -> np.ndarray:
    """The `[H, W, 3]` picture, striped diagonally (a sixteenth of the image apart) where `void [H, W]`."""
    rows, columns = np.indices(void.shape)
    width = max(2, min(void.shape) // 32)
    return np.where(void[..., None], STRIPES[(rows + columns) // width % 2], picture)

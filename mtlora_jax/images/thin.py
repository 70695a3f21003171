"""Morphological thinning: a mask worn down to lines one pixel wide, without breaking them.

The parallel algorithm of Guo and Hall, "Parallel thinning with two-subiteration algorithms" (Communications of the
ACM 32, 1989), first variant; the same as scikit-image's `thin`.
"""

import numpy as np


def thin(mask: np.ndarray) -> np.ndarray:
    """`[H, W]` bool to a bool subset of it that keeps its connectivity; beyond the border nothing is set."""
    mask = np.pad(np.asarray(mask, bool), 1)
    while True:
        before = mask.copy()
        for second in (False, True):
            inner = mask[1:-1, 1:-1]
            inner &= ~_removable(mask, second)
        if np.array_equal(mask, before):
            return mask[1:-1, 1:-1]


def _removable(mask: np.ndarray, second: bool) -> np.ndarray:
    """Which pixels a sub-iteration takes away, of a mask padded by one."""
    H, W = mask.shape
    # Neighbours 1..8 from the east, against the clock; the second half of a step sees the picture upside down.
    offsets = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
    x = [mask[1 + dy : H - 1 + dy, 1 + dx : W - 1 + dx] for dy, dx in offsets]
    crossings = sum((~x[i] & (x[i + 1] | x[(i + 2) % 8])).astype(np.uint8) for i in (0, 2, 4, 6))
    ones = [sum((x[i] | x[(i + 1) % 8]).astype(np.uint8) for i in range(start, 8, 2)) for start in (0, 1)]
    fewer = np.minimum(*ones)
    e, ne, n, se = (x[4], x[5], x[6], x[3]) if second else (x[0], x[1], x[2], x[7])
    return (crossings == 1) & (fewer >= 2) & (fewer <= 3) & ~((ne | n | ~se) & e)

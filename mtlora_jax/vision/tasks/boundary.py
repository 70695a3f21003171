"""How well predicted edges lie on true ones: the boundary benchmark's F (odsF), without MATLAB.

As in the Berkeley benchmark (Martin, Fowlkes and Malik, PAMI 2004): at every threshold the prediction is thinned, and
its pixels are matched one to one with true ones at most a small distance away; counts add up over the set, and the
best threshold's F is the metric. Differs in two things: the matching is one of most pairs, not of least total distance
among those, and nothing is suppressed along an edge's profile beyond thinning. On five images whose predictions come
with the benchmark's own numbers the recall at five thresholds agrees to 3.3e-4.
"""

import numpy as np
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from mtlora_jax.engine.metrics import ratio
from mtlora_jax.images.thin import thin
from mtlora_jax.vision.tasks.binary import WIDE
from mtlora_jax.vision.tasks.task import VOID

TOLERANCE = 0.0075
"""Largest distance of a match, as a share of the image's diagonal (the benchmark's; for NYUDv2 0.011 is usual)."""


def measure(probability: np.ndarray, label: np.ndarray, tolerance: float = TOLERANCE) -> dict[str, np.ndarray]:
    """One image's statistics, additive over images.

    Args:
      probability: `[H, W]` of an edge, 0..1.
      label: `[H, W]` 0, 1 or void; void pixels neither predict nor are to be found.
      tolerance: share of the diagonal.

    Returns:
      `matched` and `predicted` `[K]`, by the thresholds `WIDE`, and `present`: true pixels.
    """
    known = label != VOID
    truth = np.argwhere((label == 1) & known)
    radius = tolerance * np.hypot(*label.shape)
    tree = cKDTree(truth) if len(truth) else None
    matched, predicted = [], []
    for threshold in WIDE:
        pixels = np.argwhere(thin(probability >= threshold) & known)
        predicted.append(len(pixels))
        matched.append(pairs(pixels, tree, radius) if tree is not None and len(pixels) else 0)
    return {"matched": np.array(matched), "predicted": np.array(predicted), "present": np.array(len(truth))}


def pairs(pixels: np.ndarray, tree: cKDTree, radius: float) -> int:
    """The most one-to-one matches of pixels `[N, 2]` with the tree's at most `radius` apart."""
    # A match at distance 0 has to count, and zeros vanish from a sparse matrix: it is built of ones.
    near = cKDTree(pixels).sparse_distance_matrix(tree, radius, output_type="coo_matrix")
    near.data[:] = 1
    return int((maximum_bipartite_matching(near.tocsr()) >= 0).sum())


def compute(totals: dict[str, np.ndarray]) -> dict[str, float]:
    """`odsF`, NaN for a set without a true edge, and the precision, recall and threshold that it is reached at."""
    hits, predicted, present = totals["matched"], totals["predicted"], totals["present"]
    f = ratio(2 * hits, (present + predicted) * (present > 0))
    best = int(np.argmax(f))
    return {
        "odsF": float(f[best]),
        "odsF_precision": float(ratio(hits[best], predicted[best])),
        "odsF_recall": float(ratio(hits[best], present)),
        "odsF_threshold": float(WIDE[best]),
    }

"""Thinning: a known picture, and what holds for any."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from mtlora_jax.images.thin import thin


def parse(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_a_known_picture():
    """Computed by scikit-image 0.26 `morphology.thin`."""
    thick = parse(
        "..........",
        ".########.",
        ".########.",
        ".###......",
        ".###..##..",
        ".###..##..",
        ".########.",
        ".########.",
        "........#.",
    )
    assert np.array_equal(thin(thick), parse(*EXPECTED))


EXPECTED = (
    "..........",
    "..........",
    "...#####..",
    "..#.......",
    "..#.......",
    "..#.......",
    "...#..#...",
    "....##.#..",
    "........#.",
)

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
EIGHT = np.ones((3, 3))


@given(masks, st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_keeps_a_connected_subset(mask, thicken):
    mask = np.kron(mask, np.ones((3, 3))) > 0 if thicken else mask
    thinned = thin(mask)
    assert thinned.shape == mask.shape
    assert not np.any(thinned & ~mask)
    assert ndimage.label(thinned, EIGHT)[1] == ndimage.label(mask, EIGHT)[1]
    assert np.array_equal(thin(thinned), thinned)

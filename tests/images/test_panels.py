"""Panels: every picture in its place, whole and in its own colours."""

import numpy as np
import pytest
from PIL import Image

from mtlora_jax.images.panels import GAP, INK, PAPER, panel, save_png

RED, GREEN, BLUE = ((255, 0, 0), (0, 160, 0), (0, 0, 255))


def _plain(colour, height=128, width=128):
    return np.full((height, width, 3), colour, np.uint8)


def test_pictures_of_one_size_are_copied_pixel_by_pixel():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (130, 130, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    sheet = panel(rows)
    assert sheet.shape == (GAP + 2 * (130 + GAP), GAP + 3 * (130 + GAP), 3)
    assert sheet.dtype == np.uint8
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = GAP + r * (130 + GAP), GAP + c * (130 + GAP)
            np.testing.assert_array_equal(sheet[y : y + 130, x : x + 130], picture)
            sheet[y : y + 130, x : x + 130] = PAPER
    assert np.all(sheet == PAPER)


def test_tiny_labels_grow_by_whole_pixels():
    labels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    sheet = panel([[labels]])
    np.testing.assert_array_equal(sheet[GAP:-GAP, GAP:-GAP], np.kron(labels, np.ones((4, 4, 1), np.uint8)))


def test_odd_shapes_keep_their_proportions_and_empty_cells_stay_empty():
    sheet = panel([[_plain(RED, 50, 100), None], [None, _plain(BLUE, 200, 50)]], size=100)
    cells = [[sheet[y : y + 100, x : x + 100] for x in (GAP, 100 + 2 * GAP)] for y in (GAP, 100 + 2 * GAP)]
    np.testing.assert_array_equal((cells[0][0] == RED).all(-1).sum(), 50 * 100)
    np.testing.assert_array_equal((cells[1][1] == BLUE).all(-1).sum(), 100 * 25)
    np.testing.assert_array_equal(cells[0][0][25:75], _plain(RED, 50, 100))
    assert np.all(cells[0][1] == PAPER)
    assert np.all(cells[1][0] == PAPER)


def test_names_are_written_beside_their_rows_and_columns_and_touch_no_picture():
    rows = [[_plain(RED), _plain(GREEN)], [_plain(GREEN), _plain(BLUE)]]
    sheet = panel(rows, ["image", "prediction"], ["semseg", "human_parts"])
    top, left = sheet.shape[0] - 2 * (128 + GAP), sheet.shape[1] - 2 * (128 + GAP)
    assert left > 60
    np.testing.assert_array_equal(sheet[top : top + 128, left : left + 128], _plain(RED))
    np.testing.assert_array_equal(sheet[-128 - GAP : -GAP, -128 - GAP : -GAP], _plain(BLUE))
    ink = (sheet == INK).all(-1)
    middle = top + 128 + GAP // 2
    for place in (
        np.s_[:top, left : left + 128],
        np.s_[:top, -128 - GAP :],
        np.s_[top:middle, :left],
        np.s_[middle:, :left],
    ):
        assert ink[place].sum() > 10
    assert not ink[0].any()
    assert not ink[:, 0].any()
    assert not ink[:, -1].any()


def test_without_names_there_is_no_room_for_them():
    assert panel([[_plain(RED)]]).shape == (128 + 2 * GAP, 128 + 2 * GAP, 3)
    assert panel([[_plain(RED)]], names=[""]).shape == (128 + 2 * GAP, 128 + 2 * GAP, 3)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float64 \[4, 4, 3\]"):
        panel([[np.zeros((4, 4, 3))]])
    with pytest.raises(ValueError, match=r"not uint8 \[4, 4\]"):
        save_png("unwritten.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="2 titles and 0 names for 1 columns and 1 rows"):
        panel([[_plain(RED)]], ["image", "truth"])


def test_a_saved_picture_reads_back_the_same(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    save_png(tmp_path / "new" / "picture.png", picture)
    with Image.open(tmp_path / "new" / "picture.png") as read:
        np.testing.assert_array_equal(np.asarray(read), picture)

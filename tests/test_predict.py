"""Which files are photos, what their predictions are called, and predictions at a photo's own size."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mtlora_jax.errors import UserError
from mtlora_jax.images.panels import panel, with_legend
from mtlora_jax.predict import named, photos_of
from mtlora_jax.vision.heads import resize
from mtlora_jax.vision.native import STRIP, decoded_at
from mtlora_jax.vision.tasks import TASKS, task


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_files_folders_and_patterns_name_photos(folder):
    assert [p.name for p in photos_of([str(folder)])] == ["a.PNG", "b.jpg", "c.webp"]
    assert [p.name for p in photos_of([str(folder / "*.jpg"), str(folder / "b.jpg")])] == ["b.jpg"]
    for nothing in (folder / "none.jpg", folder / "*.gif"):
        with pytest.raises(UserError, match="there is no image"):
            photos_of([str(nothing)])
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="in this folder"):
        photos_of([str(folder / "empty")])


def test_no_two_photos_share_a_name(folder):
    assert list(named([folder / "x" / "a.png", folder / "b.png"])) == ["a", "b"]
    assert list(named([folder / "x" / "a.png", folder / "y" / "a.png"])) == ["x_a.png", "y_a.png"]
    with pytest.raises(UserError, match=r"would be called y_a\.png"):
        named([folder / "x" / "y" / "a.png", folder / "z" / "y" / "a.png"])


def test_a_prediction_at_a_photos_size_is_that_of_one_resize():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6, 3)), jnp.float32)
    height, width = 2 * STRIP + 37, 91
    whole = resize(logits[None], height, width)[0]
    found = decoded_at(lambda x: x, logits, height, width)
    assert found.shape == (height, width, 3)
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_every_tasks_colours_are_told_in_words(name):
    t = task(name)
    entries = t.legend([t.empty(4, 4)])
    assert entries
    for words, colour in entries:
        assert words
        assert len(colour) == 3
    sheet = panel([[np.zeros((64, 64, 3), np.uint8)]], size=64)
    told = with_legend(sheet, {name: entries})
    np.testing.assert_array_equal(told[: len(sheet), : sheet.shape[1]], sheet)
    assert len(told) > len(sheet)
    below = told[len(sheet) :].reshape(-1, 3)
    for _, colour in entries:
        assert (below == np.array(colour)).all(-1).sum() > 50


def test_a_class_legend_names_the_classes_that_occur():
    t = task("semseg")
    label = np.full((4, 4), 255, np.uint8)
    label[0] = 3
    assert [words for words, _ in t.legend([label])] == ["bird", "void"]


def test_greys_of_sixteen_bits_and_turned_photos_are_seen_as_in_training(tmp_path):
    from mtlora_jax.images import read

    Image.fromarray(np.full((4, 6), 65535 // 2, np.uint16)).save(tmp_path / "a.png")
    assert read.image(photos_of([str(tmp_path / "a.png")])[0]).max() == 127

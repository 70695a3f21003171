"""What people's files hold is what is read: bits, orientation, numbers that are none, sizes that cannot be."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mtlora_jax.errors import UserError
from mtlora_jax.images import read


def complaint(reader, path):
    """What a reader says of a file it refuses."""
    try:
        reader(path)
    except UserError as error:
        return str(error)
    return None


NUMBERS = np.random.default_rng(0)


def grey_png(path, bits, rows):
    """Writes a grey png of any number of bits, which Pillow cannot."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = rows.shape
    planes = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    lines = b"".join(b"\0" + np.packbits(line.astype(np.uint8)).tobytes() for line in planes.reshape(height, -1))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_greys_of_any_bits_keep_their_numbers(bits, tmp_path):
    rows = NUMBERS.integers(0, 2**bits, (5, 7))
    path = grey_png(tmp_path / "a.png", bits, rows)
    np.testing.assert_array_equal(read.indices(path), rows)
    np.testing.assert_allclose(read.shares(path), rows / (2**bits - 1), atol=1e-6)
    seen = read.image(path)
    assert seen.shape == (5, 7, 3)
    np.testing.assert_allclose(seen[..., 0], rows / (2**bits - 1) * 255, atol=1)


def test_a_palette_of_few_bits_keeps_its_numbers(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png", bits=2)
    np.testing.assert_array_equal(read.indices(tmp_path / "a.png"), [[0, 1], [2, 3]])


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_and_labels_are_upright_and_their_size_is_that_of_the_head(orientation, suffix, tmp_path):
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16] = 200
    stored = {
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: np.rot90,
        7: lambda x: np.rot90(x, 2).T,
        8: lambda x: np.rot90(x, -1),
    }.get(orientation, lambda x: x)(upright)
    exif = Image.Exif()
    exif[read.ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    seen = read.image(path)
    assert read.shape(path) == seen.shape[:2] == (32, 48)
    assert np.abs(seen[..., 0].astype(int) - upright).max() < 40
    if suffix == ".png":
        np.testing.assert_array_equal(read.indices(path), upright)


def test_a_damaged_note_of_the_camera_leaves_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 3)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff")
    assert read.shape(path) == read.image(path).shape[:2] == (3, 4)


def test_sixteen_bits_of_grey_are_not_clipped_to_white(tmp_path):
    Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read.image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_32_bits_are_no_colours(mode, tmp_path):
    Image.new(mode, (2, 2)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: its pixels are numbers of 32 bits"):
        read.image(tmp_path / "a.tiff")


def test_a_palette_with_transparency_is_read_in_silence(tmp_path):
    picture = Image.new("P", (2, 2))
    picture.save(tmp_path / "a.png", transparency=b"\x80\xff")
    assert read.image(tmp_path / "a.png").shape == (2, 2, 3)


def test_a_picture_may_not_claim_to_be_larger_than_is_allowed(tmp_path, monkeypatch):
    """Such a file is small, and its pixels would fill any memory."""
    grey_png(tmp_path / "bomb.png", 8, np.zeros((2, 2), int))
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    for reader in (read.image, read.shape, read.indices, read.shares, read.colours):
        with pytest.raises(UserError, match=r"bomb\.png: claims 60000 x 60000 pixels.*MTLORA_JAX_MAX_PIXELS=N"):
            reader(tmp_path / "bomb.png")
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    monkeypatch.setenv(read.LIMIT, "399")
    with pytest.raises(UserError, match="more than 399"):
        read.image(tmp_path / "a.png")
    monkeypatch.setenv(read.LIMIT, "many")
    with pytest.raises(UserError, match="must be a count of pixels, not 'many'"):
        read.image(tmp_path / "a.png")


def test_numbers_too_large_are_infinite_and_not_a_warning():
    assert read.floats(np.array([1e300, 1.0])).tolist() == [np.inf, 1.0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
def test_damaged_files_are_one_line_with_their_name(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    whole = NUMBERS.integers(0, 255, (16, 16), dtype=np.uint8)
    np.save(path, whole) if suffix == ".npy" else Image.fromarray(whole).save(path)
    data, refused = path.read_bytes(), 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        broken = bytearray(data[: rng.integers(1, len(data))] if trial % 2 else data)
        for place in rng.integers(0, len(broken), 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        for reader in (read.plane,) if suffix == ".npy" else (read.shape, read.image, read.indices):
            said = complaint(reader, path)
            assert said is None or (str(path) in said and "\n" not in said)
            refused += said is not None
    assert refused > 20

"""Features made of folders of pictures: kept in records, gone on with, divided, and never mixed."""

import pickle

import numpy as np
import pytest
from PIL import Image

from mtlora_jax import encoders
from mtlora_jax.data import main
from mtlora_jax.encoders import Encoder, open_encoder
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.datasets import make_features as making
from mtlora_jax.image_text.datasets.features import Records, shard_name


def means(weights: str = "") -> Encoder:
    """The mean colour of four quarters, times a weight."""
    scale = np.float32(weights or 1)

    def forward(variables, images):
        quarters = images.reshape(len(images), 2, 4, 2, 4, 3).mean((2, 4))
        return quarters.reshape(len(images), 4, 3) * variables["scale"]

    return Encoder("means", 8, forward, {"scale": scale}, 3)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "means", f"{__name__}:means")
    monkeypatch.setattr(making, "SHARD", 4)
    monkeypatch.setattr(making, "open_encoder", lambda name, weights: means(weights))
    rng = np.random.default_rng(0)
    for group, count in (("COCO", 7), ("VG", 4)):
        (tmp_path / group / "inner").mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
            image.save(tmp_path / group / "inner" / f"{group.lower()}_{i}.png")
    return [f"{group}={tmp_path / group}" for group in ("COCO", "VG")]


def test_features_come_back_by_id(pictures, tmp_path):
    out = tmp_path / "out"
    said = making.make_features(pictures, "means", "", out)
    assert "11 pictures (4 x 3" in said
    assert "3 of 3 files are new" in said
    records = pickle.loads(pickle.dumps(Records(str(out))))
    with Image.open(tmp_path / "VG" / "inner" / "vg_2.png") as image:
        expected = means()(np.asarray(image)[None])[0]
    np.testing.assert_array_equal(records["VG/vg_2"], expected)
    assert records.missing(["COCO/coco_0", "COCO/none"]) == ["COCO/none"]
    with pytest.raises(UserError, match="picture COCO/none has no features"):
        records["COCO/none"]


def test_what_is_there_is_kept_and_processes_share_the_rest(pictures, tmp_path):
    out = tmp_path / "out"
    assert "1 of 1 files are new; 2 files are left" in making.make_features(pictures, "means", "", out, (1, 3))
    first = (out / shard_name(1)).stat().st_mtime_ns
    assert "0 of 1 files are new; 2 files are left" in making.make_features(pictures, "means", "", out, (1, 2))
    said = making.make_features(pictures, "means", "", out)
    assert "left" not in said
    assert (out / shard_name(1)).stat().st_mtime_ns == first


def test_other_features_are_never_mixed_in(pictures, tmp_path):
    out = tmp_path / "out"
    making.make_features(pictures, "means", "", out)
    with pytest.raises(UserError, match="these would be of means"):
        making.make_features(pictures, "means", "2", out)
    with pytest.raises(UserError, match="features of other pictures"):
        making.make_features(pictures[:1], "means", "", out)
    (out / shard_name(2)).unlink()
    with pytest.raises(UserError, match="is not whole"):
        Records(str(out))["VG/vg_3"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("COCO", "SET=FOLDER"),
        ("COCO=/none", "no folder"),
        ("COCO={tmp}/empty", "no picture in"),
        ("a/b=.", "SET=FOLDER"),
    ],
)
def test_bad_folders_are_named(pictures, tmp_path, argument, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        making.find([argument.format(tmp=tmp_path)])


def test_a_picture_that_is_none_is_named(pictures, tmp_path):
    (tmp_path / "COCO" / "inner" / "coco_3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"coco_3\.png"):
        making.make_features(pictures, "means", "", tmp_path / "out")


def test_two_pictures_of_one_name(pictures, tmp_path):
    (tmp_path / "COCO" / "coco_0.png").write_bytes((tmp_path / "COCO" / "inner" / "coco_0.png").read_bytes())
    with pytest.raises(UserError, match="two pictures would be called COCO/coco_0"):
        making.find(pictures)


def test_the_command(pictures, tmp_path, capsys):
    main(["features", "--images", *pictures, "--encoder", "means", "--out", str(tmp_path / "out")])
    assert "wrote features of 11 pictures" in capsys.readouterr().out
    for arguments in (["--images", "a=b"], ["--images", "a=b", "--encoder", "x", "--out", "y", "--part", "2/2"]):
        with pytest.raises(SystemExit) as stopped:
            main(["features", *arguments])
        assert stopped.value.code == 2


def test_encoders_are_found_by_name_or_refused():
    assert open_encoder("scenes_nano").features == 288
    for name in ("none", "no.module:here", "mtlora_jax.encoders.clip:none"):
        with pytest.raises(UserError, match="there is no image encoder"):
            open_encoder(name)
    with pytest.raises(UserError, match="--weights=FILE"):
        open_encoder("RN101")
    with pytest.raises(UserError, match="shipped with its weights"):
        open_encoder("scenes_nano", "x.pt")

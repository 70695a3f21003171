"""The loader benchmark: what it reports, with and without a step."""

import json

import pytest

from mtlora_jax.bench.__main__ import main

SMALL = ("--config", "configs/scenes_smoke.py", "--rounds", "2", "--train.workers=0", "--data.train_length=16")


def test_alone(capsys):
    main(["loader", *SMALL, "--alone"])
    report = json.loads(capsys.readouterr().out)
    assert report["config"] == "scenes_smoke"
    assert report["images_per_second"] > 0
    assert report["images_per_second_in_line"] > 0
    assert "waiting_share" not in report


@pytest.mark.slow
def test_with_a_step(capsys):
    tiny = ("--backbone.image_size=32", "--backbone.depths=1", "--backbone.heads=1", "--decoder_channels=2")
    main(["loader", *SMALL, *tiny])
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["waiting_share"] < 1
    assert report["seconds_per_step"] > 0


def test_another_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["disk", *SMALL])
    assert "there are step, profile, loader" in capsys.readouterr().err

"""Damaged files and random configs, thousands from fixed seeds: no traceback, and one line that names file or key."""

import json
import random
import shutil

import numpy as np
import pytest
from golden import DATA
from PIL import Image

from mtlora_jax.cli import keys, load_config, override
from mtlora_jax.errors import UserError
from mtlora_jax.images import read
from mtlora_jax.text.datasets.read import read_rows
from mtlora_jax.text.llama_weights import open_llama
from mtlora_jax.weights import hub

pytestmark = pytest.mark.slow


def damaged(data: bytes, seed: int) -> bytes:
    """A file cut off, with bytes changed, a piece missing, a piece twice, or full of zeros."""
    rng = np.random.default_rng(seed)
    kind, at = seed % 5, int(rng.integers(0, len(data)))
    length = int(rng.integers(1, max(2, len(data) // 4)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        broken = bytearray(data)
        for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
            broken[place] = rng.integers(256)
        return bytes(broken)
    if kind == 2:
        return data[:at] + data[at + length :]
    if kind == 3:
        return data[:at] + data[at : at + length] + data[at:]
    return data[:at] + bytes(length) + data[at + length :]


def refusal(function, *arguments) -> str | None:
    """What a function says of what it refuses; any other error than a user's fails the test by itself."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return None


def survives(readers, path, data, trials) -> int:
    """How many of as many damaged forms of a file are refused."""
    refused = 0
    for seed in range(trials):
        path.write_bytes(damaged(data, seed))
        for reader in readers:
            said = refusal(reader, path)
            assert said is None or ("\n" not in said and path.name in said), (seed, said)
            refused += said is not None
    return refused


PICTURES = {
    "a.png": {},
    "b.jpg": {"quality": 90},
    "c.bmp": {},
    "d.tiff": {"compression": "tiff_lzw"},
    "e.webp": {},
    "f.gif": {},
    "palette.png": {},
    "wide.png": {},
}


@pytest.mark.parametrize("name", PICTURES)
def test_damaged_images(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if name == "palette.png":
        picture = picture.convert("P")
    if name == "wide.png":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    picture.save(tmp_path / name, **PICTURES[name])
    data = (tmp_path / name).read_bytes()
    assert survives((read.shape, read.image, read.indices, read.shares), tmp_path / name, data, 250) > 20


def test_damaged_json(tmp_path):
    records = [
        {"task": "boolq", "instruction": f"q {i} \u00e4\U0001f600", "input": "", "output": "true", "answer": "true"}
        for i in range(4)
    ]
    records += [
        {"task": "boolq", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]}
    ]
    path = tmp_path / "rows.json"
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()

    def rows(path):
        return read_rows(path, ("boolq", "piqa"))

    refused = survives((rows,), path, json.dumps(records, ensure_ascii=False).encode(), 250)
    assert refused + survives((rows,), path, lines, 250) > 100


def test_damaged_safetensors(tmp_path):
    folder = shutil.copytree(DATA / "tiny_llama_base", tmp_path / "llama")
    path, data = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    refused = 0
    for seed in range(250):
        # Most of a file is numbers, where damage shows in nothing: its head is what is read.
        path.write_bytes(damaged(data[:4000], seed) + data[4000:])
        for reader in (lambda: hub.read(path), lambda: [open_llama(folder)[1][p] for p in open_llama(folder)[1]]):
            said = refusal(reader)
            assert said is None or ("\n" not in said and "llama" in said), (seed, said)
            refused += said is not None
    assert refused > 100
    assert survives((hub.read,), tmp_path / "swin.safetensors", (DATA / "swin_timm.safetensors").read_bytes(), 250) > 50


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_damaged_torch_checkpoints(tmp_path, name):
    assert survives((hub.read,), tmp_path / name, (DATA / name).read_bytes(), 250) > 50


VALUES = (
    *("", "0", "-1", "1e400", "nan", "None", "True", "x", "1,2,3", "0.5", "[]", "{}", "999999999999", "()", "\u200b"),
    *("published", "default", "linear", "float64", "~", "/", "'", "a b", "-inf", "1e-400", "2,2,2,2", "\n"),
)


RECIPES = (
    *("scenes_mtlora", "scenes_pretrain", "scenes_tiny", "pascal_mtlora_r64", "nyud_mtlora_r64"),
    *("text_mtl_lora", "text_pretrain", "commonsense_llama2_7b", "glue_llama2_7b"),
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_random_configs(recipe):
    config = load_config(f"configs/{recipe}.py")
    names, rng = sorted(keys(config)), random.Random(0)
    accepted = 0
    for _ in range(600):
        chosen = rng.sample(names, rng.choice((1, 1, 2)))
        chosen = [name[: rng.randrange(1, len(name))] if rng.random() < 0.1 else name for name in chosen]
        arguments = [f"--{name}={rng.choice(VALUES)}" for name in chosen]

        def use(arguments=arguments):
            override(config, arguments).validate()

        said = refusal(use)
        accepted += said is None
        assert said is None or len(" ".join(said.split())) > 10, (arguments, said)
    assert 10 < accepted < 590

"""Torch checkpoints: real ones are read exactly, hostile and broken ones are refused in one line."""

import contextlib
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from golden import DATA

from mtlora_jax.errors import UserError
from mtlora_jax.weights import hub
from mtlora_jax.weights import torch_pickle as pth
from mtlora_jax.weights import torch_pickle_write as pth_write
from mtlora_jax.weights.torch_pickle import CHOSEN

FILES = ("torch_zip.pth", "torch_legacy.pth")
"""Written by torch 2.13 in both of its formats: the same state dict."""

BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
VIEWS = {
    "base": BASE,
    "transposed": BASE.T,
    "slice": BASE[1:3, 2:5],
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "expanded": np.array([[1, 2]] * 3, np.float32),
    "parameter": np.array([1, -2], np.float32),
    "counter": np.array(7),
    "channels_last": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
}


@pytest.mark.parametrize("file", FILES)
def test_every_dtype_and_view(file):
    arrays, rest = pth.read(DATA / file)
    assert rest == {}
    assert set(arrays) == set(VIEWS) | set(pth.DTYPES)
    for name, dtype in pth.DTYPES.items():
        assert arrays[name].dtype == np.dtype(dtype), name
        np.testing.assert_array_equal(arrays[name], np.array([[0, 1, 2]] * 2).astype(dtype), err_msg=name)
    for name, expected in VIEWS.items():
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name, strict=True)


def test_a_training_checkpoint_and_what_lies_beside_its_weights():
    arrays, rest = pth.read(DATA / "torch_training.pth")
    np.testing.assert_array_equal(arrays["0.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert arrays["1.num_batches_tracked"].dtype == np.int64
    assert rest["epoch"] == 3
    assert rest["config"]["DATA"] == {"IMG_SIZE": 64}
    assert rest["config"]["TASKS"] == ["semseg", "sal"]
    assert rest["args"] == rest["max_accuracy"] == {}


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, call, *args):
        self.reduced = call, args

    def __reduce__(self):
        return self.reduced


def zipped(pickled: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("call", [os.mkdir, os.system, eval, exec, getattr, __import__, Path, io.open])
def test_code_is_refused_and_not_run(tmp_path, call, form, protocol):
    mark, path = tmp_path / "ran", tmp_path / "evil.pth"
    argument = f"mkdir {mark}" if call is os.system else f"__import__('os').mkdir({str(mark)!r})"
    evil = Bomb(
        call, *((object, "x") if call is getattr else (str(mark) if call in (os.mkdir, io.open) else argument,))
    )
    tree = {"model": {}, "extra": evil}
    if form == "zip":
        zipped(pickle.dumps(tree, protocol), path)
    else:
        header = [pth.LEGACY_MAGIC, 1001, {"little_endian": True}] if form == "legacy" else []
        path.write_bytes(b"".join(pickle.dumps(x, protocol) for x in [*header, tree, []]))
    with pytest.raises(UserError) as refused:
        pth.read(path)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    if call is not Path and form != "plain":
        assert "code" in str(refused.value), refused.value


def test_a_refusal_repeats_no_control_characters(tmp_path):
    names = (pickle.SHORT_BINUNICODE + bytes([len(x)]) + x for x in (b"a\x1b[31m\nb", b"c"))
    zipped(b"\x80\x04" + b"".join(names) + pickle.STACK_GLOBAL + b".", tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"names a\\x1b\[31m\\nb\.c, which is code"):
        pth.read(tmp_path / "x.pth")


def test_a_whole_module_is_refused_by_name():
    with pytest.raises(UserError, match=r"torch_module.pth is not read: .*torch\.nn\.modules.*Sequential"):
        pth.read(DATA / "torch_module.pth")


@pytest.mark.parametrize("file", FILES)
def test_truncation_is_told_at_every_length(file, tmp_path):
    whole, path = (DATA / file).read_bytes(), tmp_path / "cut.pth"
    for length in range(0, len(whole), 151):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth is truncated, damaged, or no torch checkpoint \(.+\)$"):
            pth.read(path)


@pytest.mark.parametrize("file", FILES)
def test_damage_never_ends_in_a_traceback(file, tmp_path):
    whole, path = (DATA / file).read_bytes(), tmp_path / "bad.pth"
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        # Any other exception fails the test: reading either works or is a UserError.
        with contextlib.suppress(UserError):
            pth.read(path)


def test_a_tensor_cannot_look_beyond_its_storage(tmp_path):
    storage = pth.Storage("float32", lambda: bytes(16))
    assert pth.Tensor(storage, "float32", 0, (4,), (1,)).array().shape == (4,)
    for offset, size, stride in [
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (1,), (1,)),
        (0, (5,), (1,)),
        (2, (2,), (-3,)),
    ]:
        with pytest.raises((ValueError, TypeError)):
            pth.Tensor(storage, "float32", offset, size, stride).array()


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds no state dict"), ({"epoch": 3}, "holds no tensors by name")],
)
def test_a_checkpoint_without_weights(content, message, tmp_path):
    zipped(pickle.dumps(content, 2), tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        pth.read(tmp_path / "x.pth")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        pth.read(tmp_path / "none.pth")


def test_what_is_written_reads_back(tmp_path):
    given = {
        "a.weight": np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32),
        "transposed": BASE.T,
        "counter": np.array(7),
        "mask": np.zeros((0, 3), np.float16),
    }
    pth_write.write(tmp_path / "out.pth", given)
    arrays, rest = pth.read(tmp_path / "out.pth")
    assert rest == {}
    for name, x in given.items():
        np.testing.assert_array_equal(arrays[name], x, strict=True)


# --- several models in one file


class Storage:
    """Stands for a storage while it is pickled."""

    def __init__(self, numbers):
        self.numbers = numbers


def several(path, monkeypatch, **models):
    """Writes `{name: {"w": tensor}}` as torch would; what it names is made up for as long as that takes."""
    utils, torch = ModuleType("torch._utils"), ModuleType("torch")

    def rebuild(*arguments):
        raise AssertionError("only its name is needed")

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Tensor:
        def __init__(self, numbers):
            self.numbers = np.asarray(numbers, np.float32)

        def __reduce__(self):
            return rebuild, (Storage(self.numbers), 0, self.numbers.shape, (1,), False, None)

    stored = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            stored.append(value.numbers)
            return "storage", torch.FloatStorage, str(len(stored) - 1), "cpu", value.numbers.size

    file = io.BytesIO()
    Pickler(file, 2).dump({name: {"w": Tensor(numbers)} for name, numbers in models.items()} | {"epoch": 3})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", file.getvalue())
        for key, numbers in enumerate(stored):
            archive.writestr(f"a/data/{key}", numbers.tobytes())
    return str(path)


def test_one_of_several_models_may_be_chosen_and_the_others_are_named(tmp_path, monkeypatch):
    path = several(tmp_path / "a.ckpt", monkeypatch, state_dict=[0, 0], model_ema=[1, 1], teacher_model=[2, 2])
    tensors, about = hub.read(path)
    assert tensors["w"].tolist() == [0, 0]
    assert about[CHOSEN] == "state_dict, not model_ema, teacher_model"
    for name, number in (("model_ema", 1), ("teacher_model", 2)):
        assert hub.read(f"{path}#{name}")[0]["w"].tolist() == [number] * 2
    with pytest.raises(UserError, match="holds no student, but state_dict, model_ema, teacher_model"):
        hub.read(f"{path}#student")
    odd = several(tmp_path / "b.pth", monkeypatch, mine=[1, 2], yours=[3, 4])
    with pytest.raises(UserError, match="choose one of mine, yours with #NAME behind the path"):
        hub.read(odd)

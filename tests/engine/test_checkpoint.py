"""Checkpoints: what is kept, what comes back, and what happens to damaged ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from jax.sharding import NamedSharding, PartitionSpec

import mtlora_jax
from mtlora_jax.config import Mesh
from mtlora_jax.engine.checkpoint import Checkpoints
from mtlora_jax.engine.mesh import make_mesh, replicated
from mtlora_jax.errors import UserError
from mtlora_jax.weights.digest import _hex, device_sums, digest


def state_of(step):
    """A small state whose every value is a function of the step, too irregular to be compressed."""
    w = jnp.asarray(np.random.default_rng(step).normal(size=(48, 64)), jnp.float32)
    weights = {"params": {"w": w}, "lora": {"A": jnp.arange(6.0) + step}}
    opt_state = optax.adam(1e-3).init(weights)
    return {"trainable": weights, "opt_state": opt_state, "mutable": {}}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def open_checkpoints(directory, notes=None, **options):
    return Checkpoints(directory, say=(notes if notes is not None else []).append, **options)


@pytest.fixture
def saved(tmp_path):
    """A directory with complete checkpoints of steps 1 and 2."""
    checkpoints = open_checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {"step": step})
    checkpoints.close()
    return tmp_path / "c"


def data_file(directory):
    """The file with the bytes of `params/w`."""
    file = max((directory / "trainable").rglob("*"), key=lambda f: f.stat().st_size)
    assert file.stat().st_size > 48 * 64 * 3
    return file


def test_what_is_saved_comes_back_with_types_and_meta(saved):
    checkpoints = open_checkpoints(saved)
    step, state, meta = checkpoints.restore(state_of(0))
    assert (step, meta) == (2, {"step": 2})
    assert_same(state, state_of(2))
    assert isinstance(state["opt_state"][0], optax.ScaleByAdamState)
    assert checkpoints.restore(state_of(0), step=1).step == 1
    only = checkpoints.restore({"trainable": state_of(0)["trainable"]})
    assert list(only.state) == ["trainable"]
    checkpoints.close()


def test_newest_two_and_best_are_kept_and_best_is_known(tmp_path):
    checkpoints = open_checkpoints(tmp_path, keep=2)
    for step, score in [(1, 0.5), (2, 0.9), (3, 0.1), (4, None), (5, float("nan")), (6, 0.2)]:
        checkpoints.save(step, {"trainable": {"x": jnp.full(3, step)}}, {}, score)
        checkpoints.wait()
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.best() == 2
    checkpoints.close()
    reader = open_checkpoints(tmp_path, read_only=True)
    assert (reader.steps(), reader.best()) == ([2, 5, 6], 2)
    reader.close()


def test_nothing_scored_has_no_best_and_saving_again_is_harmless(saved):
    checkpoints = open_checkpoints(saved)
    assert checkpoints.best() is None
    checkpoints.save(2, state_of(7), {"step": 7})
    checkpoints.wait()
    step, state, meta = checkpoints.restore(state_of(0))
    assert (step, meta) == (2, {"step": 2})
    assert_same(state, state_of(2))
    checkpoints.close()


def test_arrays_can_be_donated_while_they_are_being_written(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    bump = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.arange(1 << 20, dtype=jnp.float32)
    checkpoints.save(1, {"trainable": {"x": x}}, {})
    for _ in range(20):
        x = bump(x)
    jax.block_until_ready(x)
    restored = checkpoints.restore({"trainable": {"x": x}}).state["trainable"]["x"]
    np.testing.assert_array_equal(restored, np.arange(1 << 20, dtype=np.float32))
    checkpoints.close()


def test_restores_onto_another_mesh(tmp_path):
    eight = make_mesh(Mesh(data=2, fsdp=4))
    two = make_mesh(Mesh(fsdp=2), jax.devices()[:2])
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    written = jax.device_put(x, NamedSharding(eight, PartitionSpec("fsdp", "data")))
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, {"trainable": {"x": written}}, {})
    for sharding in (NamedSharding(two, PartitionSpec(None, "fsdp")), replicated(eight), replicated(two)):
        abstract = {"trainable": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}}
        restored = checkpoints.restore(abstract).state["trainable"]["x"]
        assert restored.sharding == sharding
        np.testing.assert_array_equal(restored, x)
    checkpoints.close()


def flip_a_byte(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", ["data", "meta"])
def test_damage_falls_back_to_the_one_before_and_says_so(saved, damage, what):
    damage(data_file(saved / "2") if what == "data" else saved / "2/meta/metadata")
    notes = []
    checkpoints = open_checkpoints(saved, notes)
    step, state, _ = checkpoints.restore(state_of(0))
    assert step == 1
    assert_same(state, state_of(1))
    assert len(notes) == 1
    assert "checkpoint 2 is damaged" in notes[0]
    assert "going back to 1" in notes[0]
    assert "\n" not in notes[0]
    # Training goes on from 1 and writes 2 anew; the damaged one is put aside, not deleted.
    checkpoints.save(2, state_of(2), {"step": 2})
    checkpoints.close()
    assert (saved / "2.damaged").is_dir()
    again = open_checkpoints(saved, notes)
    assert again.steps() == [1, 2]
    assert_same(again.restore(state_of(0)).state, state_of(2))
    assert len(notes) == 1
    again.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_byte_anywhere_never_changes_what_is_restored(saved, seed):
    rng = random.Random(seed)
    file = rng.choice([f for f in sorted((saved / "2").rglob("*")) if f.is_file() and f.stat().st_size])
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    checkpoints = open_checkpoints(saved)
    step, state, _ = checkpoints.restore(state_of(0))
    assert_same(state, state_of(step))
    checkpoints.close()


def test_errors_are_one_line_and_name_the_leaf(saved, tmp_path):
    checkpoints = open_checkpoints(saved)
    state = state_of(0)
    other_rank = {"trainable": {**state["trainable"], "lora": {"A": jnp.zeros(7)}}}
    with pytest.raises(UserError, match=r"checkpoint 2: trainable/lora/A is float32\[6\], .* float32\[7\]$"):
        checkpoints.restore(other_rank)
    with pytest.raises(UserError, match="trainable/params/b is missing"):
        checkpoints.restore({"trainable": {**state["trainable"], "params": {"b": jnp.zeros(1)}}})
    with pytest.raises(UserError, match="trainable/lora/A has no place in this model"):
        checkpoints.restore({"trainable": {"params": state["trainable"]["params"]}})
    with pytest.raises(UserError, match="bfloat16"):
        checkpoints.restore({"trainable": jax.tree.map(lambda x: x.astype(jnp.bfloat16), state["trainable"])})
    with pytest.raises(UserError, match="there is no checkpoint 9 in"):
        checkpoints.restore(state, step=9)
    checkpoints.close()
    for step in (1, 2):
        truncate(saved / str(step) / "meta/metadata")
    with pytest.raises(UserError, match=f"{saved}/1 is damaged"):
        open_checkpoints(saved).restore(state)
    for read_only in (True, False):
        empty = open_checkpoints(tmp_path / "none", read_only=read_only)
        assert (empty.steps(), empty.best()) == ([], None)
        with pytest.raises(UserError, match="there is no checkpoint in"):
            empty.restore(state)
        assert (tmp_path / "none").exists() is not read_only
        empty.close()


SAVE_FOR_EVER = """
import itertools, sys
import jax.numpy as jnp
from mtlora_jax.engine.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in itertools.count(max(checkpoints.steps(), default=0) + 1):
    checkpoints.save(step, {"trainable": {"x": jnp.full(1 << 18, step, jnp.int32)}}, {"step": step})
    checkpoints.wait()
    print(step, flush=True)
"""
KILLS = 5
"""Of which one comes in the middle of a save for certain, and the others at any moment."""


@pytest.mark.slow
def test_kills_lose_nothing_that_was_complete(tmp_path):
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    root, moments = Path(mtlora_jax.__file__).parents[1], random.Random(0)
    for kill in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as child:
            completed = [int(child.stdout.readline()) for _ in range(3)]
            deadline = time.monotonic() + 20
            while kill == 0 and all(p.name.isdigit() for p in tmp_path.iterdir()):
                assert time.monotonic() < deadline
            time.sleep(0 if kill == 0 else moments.uniform(0, 0.2))
            child.send_signal(signal.SIGKILL)
        assert kill > 0 or any(not p.name.isdigit() for p in tmp_path.iterdir())
        notes = []
        checkpoints = open_checkpoints(tmp_path, notes)
        abstract = {"trainable": {"x": jax.ShapeDtypeStruct((1 << 18,), jnp.int32)}}
        step, state, meta = checkpoints.restore(abstract)
        assert step >= completed[-1]
        assert meta == {"step": step}
        np.testing.assert_array_equal(state["trainable"]["x"], np.full(1 << 18, step, np.int32))
        assert notes == []
        # What the killed one left half-way is cleared away in the background, before the next save at the latest.
        checkpoints.save(step + 1, {"trainable": {"x": jnp.full(1 << 18, step + 1, jnp.int32)}}, {"step": step + 1})
        checkpoints.close()
        assert all(p.name.isdigit() for p in tmp_path.iterdir())


arrays = npst.arrays(
    st.sampled_from([np.float32, np.int32, np.uint8, np.bool_, np.float16, np.int8]),
    npst.array_shapes(max_dims=3, max_side=4, min_dims=0),
)


@settings(max_examples=25, deadline=None)
@given(arrays, st.data())
def test_digest_is_the_same_on_the_device_and_sees_every_bit(x, data):
    x = np.asarray(x)
    assert digest(x) == digest(jnp.asarray(x)) == _hex(device_sums(jnp.asarray(x)))
    bytes_ = bytearray(x.tobytes())
    if x.dtype != bool:
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        assert digest(np.frombuffer(bytes_, x.dtype).reshape(x.shape)) != digest(x)


def test_digest_does_not_depend_on_sharding_but_on_order():
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    mesh = make_mesh(Mesh(data=4, fsdp=2))
    for spec in (PartitionSpec("data"), PartitionSpec(("data", "fsdp")), PartitionSpec("data", "fsdp")):
        sharded = jax.device_put(x, NamedSharding(mesh, spec))
        assert _hex(device_sums(sharded)) == digest(sharded) == digest(x)
    assert digest(x[::-1]) != digest(x)
    assert digest(x.astype(jnp.bfloat16)) == _hex(device_sums(jnp.asarray(x, jnp.bfloat16)))
    assert digest(np.arange(3, dtype=np.int64)) == digest(np.array([0, 0, 1, 0, 2, 0], np.int32))


def test_meta_is_plain_json(saved):
    stored = json.loads((saved / "2/meta/metadata").read_text())
    assert stored["leaves"]["trainable"]["params/w"]["shape"] == [48, 64]
    assert stored["meta"] == {"step": 2}

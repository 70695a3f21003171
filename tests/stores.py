"""A store for tests, which has no rename, no append and no lock, and machines that use it."""

from pathlib import Path

import pytest
from gcs import Server

BUCKET = "gs://bucket"


@pytest.fixture(scope="module")
def server():
    with Server() as found, pytest.MonkeyPatch.context() as patched:
        for name, value in found.environment.items():
            patched.setenv(name, value)
        yield found


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """An empty store, and a machine that has fetched nothing of it."""
    from mtlora_jax.engine import lease

    server.objects.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "BEAT", 0.2)
    another_machine()
    yield server
    another_machine()
    assert not list(Path().glob("*:")), "a store's path was taken for one of this machine"


def another_machine():
    """Forgets what this process knows of stores."""
    from mtlora_jax import mirrors, storage
    from mtlora_jax.weights import ranged

    mirrors._MIRRORS.clear()
    storage._fetched.cache_clear()
    storage._LEFT.clear()
    ranged._header.cache_clear()


def put(store, folder, name):
    """Has a folder lie in a store."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            store.put(("bucket", f"{name}/{path.relative_to(folder).as_posix()}"), path.read_bytes())

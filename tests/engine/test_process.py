"""Compiled programs are kept and counted; one that cannot be read costs a line, once."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mtlora_jax.engine import process

CODE = """
import jax
import numpy as np
from mtlora_jax.engine import compiled, process
process.prepare()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
@jax.jit
def doubled(x):
    return 2 * x
print(doubled(np.arange(3)).tolist(), compiled.COUNT.kept, compiled.COUNT.programs > 0)
"""


def run(folder):
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder), "PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("junk", [b"", b"no program"])
def test_an_unreadable_program_is_deleted_and_compiled_again(tmp_path, junk):
    assert run(tmp_path)[0] == "[0, 2, 4] 0 True"
    assert run(tmp_path)[0] == "[0, 2, 4] 1 True"
    (entry,) = tmp_path.glob("jit_doubled-*-cache")
    entry.write_bytes(junk)
    out, err = run(tmp_path)
    assert out == "[0, 2, 4] 0 True"
    assert len(err.splitlines()) == 1
    assert "a compiled jit_doubled could not be read" in err
    assert run(tmp_path) == ("[0, 2, 4] 1 True", "")


@pytest.mark.parametrize(("taken", "options"), [(1 << 20, []), (1 << 50, [process.LARGE])])
def test_large_steps_keep_no_memory(monkeypatch, taken, options):
    told = []
    monkeypatch.setattr(process, "_mallopt", told.append)
    monkeypatch.setattr(process.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=taken // 1024))
    process.return_memory()
    assert told == options

"""Strict numerics for every test: eight CPU devices, no silent rank promotion, full matmul precision."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# As many threads in XLA's pools as devices, and more: those that wait for each other hold one each.
os.environ.setdefault("NPROC", "16")
# Programs run for milliseconds here and compile for seconds: the compiler's optimisations cost more than they save.
# Eight devices on one busy core meet late: by default the process is aborted when they have waited for 40 seconds.
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"),
        *("--xla_cpu_collective_call_terminate_timeout_seconds=200", "--xla_cpu_collective_timeout_seconds=200"),
    ]
).strip()

import jax
import pytest
from stores import server, store  # noqa: F401 (fixtures)

from mtlora_jax.engine.process import COLLECTED

gc.set_threshold(*COLLECTED)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)

"""What the devices are that a program is traced for, where it is written in another way for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that examples are divided over."""
LANES = 128
"""Of a TPU: numbers of an array's last axis that lie, and are computed, side by side."""

_TRACED: ContextVar[jax.sharding.Mesh | None] = ContextVar("mesh that a step is traced for", default=None)


@contextmanager
def traced_for(mesh: jax.sharding.Mesh) -> Iterator[None]:
    """While entered, what is traced is for the devices of this mesh, whether they are attached or not."""
    token = _TRACED.set(mesh)
    try:
        yield
    finally:
        _TRACED.reset(token)


def traced() -> jax.sharding.Mesh | None:
    """The mesh that a step is being traced for; None elsewhere, and where there is one device."""
    mesh = _TRACED.get()
    return None if mesh is None or mesh.size == 1 else mesh


def _device() -> jax.Device:
    mesh = _TRACED.get()
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def on_nvidia() -> bool:
    """Whether they are NVIDIA's, of the Ampere generation or later: those that have fused kernels."""
    device = _device()
    return "NVIDIA" in device.device_kind and float(getattr(device, "compute_capability", 0)) >= 8


def on_tpu() -> bool:
    return _device().platform == "tpu"

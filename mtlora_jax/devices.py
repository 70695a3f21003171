"""What the devices are, where programs are written in another way for them."""

from functools import cache

import jax


@cache
def on_nvidia() -> bool:
    """Whether they are NVIDIA's, of the Ampere generation or later: those that have fused kernels."""
    device = jax.devices()[0]
    return "NVIDIA" in device.device_kind and float(getattr(device, "compute_capability", 0)) >= 8

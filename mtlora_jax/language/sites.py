"""What language models share: projections that carry the adapter of their site, by a table of regexes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from mtlora_jax.adapters import Dense, Spec, method_of

Table = tuple[tuple[str, Spec], ...]
"""(regex, spec) rows, searched over the sites of a model; the first that is found gives a projection its adapter."""

KEPT = "kept"
"""The name that policies know a projection's output by."""


def _products(primitive: Any, *_: Any, **__: Any) -> bool:
    """Matrix products, and attention in one kernel."""
    return primitive.name == "dot_general" or primitive.name.startswith("dot_product_attention_fwd")


_kept = jax.checkpoint_policies.save_only_these_names(KEPT)
_either = jax.checkpoint_policies.save_from_both_policies
REMAT: Mapping[str, Any] = {
    "none": _either(_kept, _products),
    "dots": _either(_kept, jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What the backward pass finds kept of a layer: all products; those with weights, but not attention's; or its input.

Norms, rotations, dropout's masks and activations are computed again in any case: they cost less than to write what they
give for all layers, and to read it back."""


def rematerialised(layer: type[nn.Module], remat: str) -> type[nn.Module]:
    """A layer of a scan that keeps what `REMAT` says. Floats of a quantised kernel are made again too."""
    return nn.remat(layer, policy=REMAT[remat], prevent_cse=False)


class Sites(nn.Module):
    """Base of modules with projections.

    Attributes:
      spec: the model's shape.
      adapters: its table.
      dtype: compute dtype; None keeps the input's.
    """

    spec: Any
    adapters: Table
    dtype: jnp.dtype | None

    def project(self, site: str, features: int, use_bias: bool, x: jax.Array, context: Any) -> jax.Array:
        """`[..., in]` to `[..., features]` by the projection of a site, which the last part of its path names.

        Args:
          context: has `task_id` and `train`.
        """
        layer = Dense(
            features,
            use_bias=use_bias,
            adapter=adapter_at(self.adapters, site),
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.deviation()),
            name=site.rpartition("/")[2],
            **self.storage(site),
        )
        return checkpoint_name(layer(x, task_id=context.task_id, train=context.train), KEPT)

    def storage(self, site: str) -> dict[str, Any]:
        """How a projection's leaves are stored, as attributes of `adapters.Dense`."""
        return {}

    def deviation(self) -> float:
        """Of fresh kernels."""
        return 0.02


def adapter_at(adapters: Table, site: str) -> Spec | None:
    """The adapter that a table gives a projection."""
    return next((spec for regex, spec in adapters if re.search(regex, site)), None)


def check_table(adapters: Table, sites: Sequence[str]) -> None:
    """Raises ValueError for a row that matches none of the sites, or cannot be read."""
    for regex, _ in adapters:
        try:
            found = any(re.search(regex, site) for site in sites)
        except re.error as error:
            raise ValueError(f"adapter row {regex!r} is not a regular expression: {error}") from None
        if not found:
            raise ValueError(f"adapter row {regex!r} matches no projection: there are {', '.join(sites)}")


def leaf_axes(before: str | None, after: str | None) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of the leaves of a projection, whose kernel is `[before, after]`. What a task owns has none."""
    down, up, each = (before, None), (None, after), (after,)
    return {"kernel": (before, after), "A": down, "route": down, "B": up, "magnitude": each, "scaling": each}


def axes(adapters: Table, sites: Sequence[str], into: str, out_of: str) -> list[tuple[str, tuple[str | None, ...]]]:
    """Logical axes of projections' kernels and of their adapters.

    Args:
      into, out_of: regexes of the names of projections from the model's width, and back to it.
    """
    rows = []
    declared = {name for _, adapter in adapters for name in method_of(adapter).declare(adapter, 1, 1)}
    for group, before, after in ((into, "embed", "inner"), (out_of, "inner", "embed")):
        leaves = leaf_axes(before, after)
        rows.append((rf"/({group})/kernel(/codes|/scale)?$", leaves.pop("kernel")))
        if any(re.search(regex, s) for regex, _ in adapters for s in sites if re.search(f"/({group})$", s)):
            rows += [(rf"/({group})/{leaf}$", names) for leaf, names in leaves.items() if leaf in declared]
    return rows

"""Folding adapters into base kernels, for a whole model: exactly, or not at all.

>>> import jax, jax.numpy as jnp
>>> from mtlora_jax.adapters import Dense, LoRA, merge, sites
>>> model, x = Dense(4, adapter=LoRA(rank=2)), jnp.ones((3, 8))
>>> variables = model.init(jax.random.key(0), x)
>>> plain = merge(variables, sites(model, x))
>>> sorted(variables), sorted(plain)
(['lora', 'params'], ['params'])
>>> Dense(4).apply(plain, x).shape
(3, 4)
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from mtlora_jax.adapters.dense import Dense
from mtlora_jax.adapters.leaf import COLLECTION, check
from mtlora_jax.adapters.registry import method_of
from mtlora_jax.adapters.spec import CannotMerge

Path = tuple[str, ...]


def sites(model: nn.Module, *args, **kwargs) -> dict[Path, Dense]:
    """Every adapted layer of a model by its path, found by an abstract call (nothing is computed).

    Args:
      model: an unbound module.
      *args, **kwargs: what `model.apply` takes after the variables; arrays or `jax.ShapeDtypeStruct`.
    """
    found: dict[Path, Dense] = {}

    def record(call, call_args, call_kwargs, context):
        module = context.module
        if isinstance(module, Dense) and module.adapter is not None:
            found[module.path] = module.clone(parent=None)
        return call(*call_args, **call_kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda *a: model.init(jax.random.key(0), *a, **kwargs), *args)
    return found


def merge(variables: Mapping, layers: Mapping[Path, Dense], task: str | None = None) -> dict:
    """Folds the adapters of `layers` into their kernels.

    Args:
      variables: `params`, `lora` and other collections; not changed. Layers of an `nn.scan` have leaves with a leading
        axis, and each layer is folded with its own.
      layers: the layers to fold, as `sites` lists them, or some of those.
      task: the task whose update is folded; None folds the shared one. The other streams' leaves are dropped.

    Returns:
      The variables with new kernels and without those layers' leaves (and without `lora` once it is empty).

    Raises:
      CannotMerge: a layer's update is not a change of its kernel; the message names the layer and the reason.
      ValueError: leaves are missing, of another shape, or left over; the message names their path.
    """
    params = traverse_util.flatten_dict(variables["params"])
    stored = traverse_util.flatten_dict(variables.get(COLLECTION, {}))
    for path, layer in layers.items():
        method = method_of(layer.adapter)

        def one(leaves, kernel, bias, method=method, layer=layer):
            return method.merge(layer.adapter, leaves, kernel, bias, task)

        merged = [_each(one, "merged", path, *part) for part in _parts(params, stored, path, layer)]
        kernels, biases = zip(*merged, strict=True)
        params[(*path, "kernel")] = jnp.concatenate(kernels, axis=-1)
        if biases[0] is not None:
            params[(*path, "bias")] = jnp.concatenate(biases, axis=-1)
    result = {**variables, "params": traverse_util.unflatten_dict(params)}
    result.pop(COLLECTION, None)
    return result | ({COLLECTION: traverse_util.unflatten_dict(stored)} if stored else {})


def export(
    variables: Mapping, layers: Mapping[Path, Dense], task: str | None = None
) -> dict[Path, tuple[jax.Array, jax.Array]]:
    """One task of every layer as plain LoRA: `{path: (A [in, R], B [R, out])}`, scales within B.

    Arguments and errors as in `merge`; layers of an `nn.scan` give arrays with a leading axis. A layer of k slots gives
    a pair of rank k R, whose B is block-diagonal.
    """
    params = traverse_util.flatten_dict(variables["params"])
    stored = traverse_util.flatten_dict(variables.get(COLLECTION, {}))
    pairs = {}
    for path, layer in layers.items():
        method = method_of(layer.adapter)

        def one(leaves, kernel, bias, method=method, layer=layer):
            return method.export(layer.adapter, leaves, kernel, task)

        slots = [_each(one, "exported", path, *part) for part in _parts(params, stored, path, layer)]
        downs, ups = zip(*slots, strict=True)
        pairs[path] = jnp.concatenate(downs, axis=-1), _block_diagonal(ups)
    return pairs


def _each(one, what: str, path: Path, leaves, kernel, bias):
    """Applies a function of one layer to it, or to each layer of a scan, or of a scan of scans."""
    for _ in range(kernel.ndim - 2):
        one = jax.vmap(one)
    try:
        # What is merged is read for years: products of full precision, also where an accelerator prefers less.
        with jax.default_matmul_precision("highest"):
            return one(leaves, kernel, bias)
    except CannotMerge as reason:
        raise CannotMerge(f"{'/'.join(path)} cannot be {what}: {reason}") from None


def _block_diagonal(blocks: Sequence[jax.Array]) -> jax.Array:
    """`[..., sum of rows, sum of columns]`, of blocks of equal width."""
    width = blocks[0].shape[-1]
    rows = []
    for i, block in enumerate(blocks):
        beside = (i * width, (len(blocks) - 1 - i) * width)
        rows.append(jnp.pad(block, (*((0, 0),) * (block.ndim - 1), beside)))
    return jnp.concatenate(rows, axis=-2)


def _parts(params, stored, path: Path, layer: Dense) -> list[tuple[dict, jax.Array, jax.Array | None]]:
    """`(leaves, kernel, bias)` of every slot of a layer; takes the leaves out of `stored`."""
    where, method = "/".join(path), method_of(layer.adapter)
    if (*path, "kernel") not in params:
        raise ValueError(f"params/{where}/kernel is missing")
    count = max(len(layer.slots), 1)
    kernels = jnp.split(params[(*path, "kernel")], count, axis=-1)
    bias = params.get((*path, "bias"))
    biases = [None] * count if bias is None else jnp.split(bias, count, axis=-1)
    parts = []
    for slot, kernel, b in zip(layer.slots or ("",), kernels, biases, strict=True):
        at = (*path, slot) if slot else path
        own = {p[len(at) :]: stored.pop(p) for p in list(stored) if p[: len(at)] == at}
        leaves = traverse_util.unflatten_dict(own)
        declared = traverse_util.flatten_dict(method.declare(layer.adapter, *kernel.shape[-2:]))
        declared = {p: leaf._replace(shape=(*kernel.shape[:-2], *leaf.shape)) for p, leaf in declared.items()}
        check(traverse_util.unflatten_dict(declared), leaves, "/".join((COLLECTION, *at)))
        parts.append((leaves, kernel, b))
    if extra := next((p for p in stored if p[: len(path)] == path), None):
        raise ValueError(f"{'/'.join((COLLECTION, *extra))} is not a leaf of this layer")
    return parts

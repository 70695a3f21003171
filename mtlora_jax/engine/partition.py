"""Splitting variables into what trains and what does not, before anything is differentiated.

Gradients are taken of the trainable tree alone and optimizer state exists for nothing else; the frozen tree is an
argument of the loss.
"""

from collections.abc import Callable, Mapping

from flax import traverse_util

MODEL_COLLECTIONS = ("params", "lora")
"""What holds weights; every other collection is state that the forward pass rewrites."""


def split(tree: Mapping, keep: Callable[[str], bool]) -> tuple[dict, dict]:
    """`(kept, rest)` of a nested dict by its leaves' paths `a/b/c`."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    kept = {path: leaf for path, leaf in flat.items() if keep(path)}
    rest = {path: leaf for path, leaf in flat.items() if path not in kept}
    return traverse_util.unflatten_dict(kept, sep="/"), traverse_util.unflatten_dict(rest, sep="/")


def join(*trees: Mapping) -> dict:
    """The inverse of `split`: nested dicts with disjoint leaves, as one."""
    flat = {}
    for tree in trees:
        flat |= traverse_util.flatten_dict(tree, sep="/")
    return traverse_util.unflatten_dict(flat, sep="/")


def split_variables(variables: Mapping, labels: Mapping[str, str]) -> tuple[dict, dict, dict]:
    """`(trainable, frozen, mutable)` of a model's variables.

    Args:
      variables: collections by name.
      labels: path to label, for every leaf of `MODEL_COLLECTIONS`; `frozen` freezes.
    """
    weights = {name: variables[name] for name in MODEL_COLLECTIONS if name in variables}
    mutable = {name: variables[name] for name in variables if name not in MODEL_COLLECTIONS}
    frozen, trainable = split(weights, lambda path: labels[path] == "frozen")
    return trainable, frozen, mutable

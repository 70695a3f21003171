"""A reference config small enough for every test."""

import copy

import numpy as np
from flax import traverse_util

from mtlora_jax.convert import reference, to_mtlora_reference
from mtlora_jax.convert.reference_config import read_model

SMALL = {
    "DATA": {"IMG_SIZE": 32},
    "MODEL": {
        "SWIN": {"WINDOW_SIZE": 2, "EMBED_DIM": 4, "DEPTHS": [2, 1, 1, 1], "NUM_HEADS": [1, 1, 2, 2]},
        "MTLORA": {"ENABLED": True, "R": 2},
        "DECODER_CHANNELS": [2, 3, 4, 5],
        "SEGFORMER_CHANNELS": 6,
    },
    "TASKS": ["semseg", "sal"],
    "DATASET": "PASCALContext",
}


def changed(config: dict, values: dict) -> dict:
    """A config with dotted keys set."""
    config = copy.deepcopy(config)
    for key, value in values.items():
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return config


def random_state_dict(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Some weights for a config, under the reference's names, buffers included."""
    model, rng = read_model(config), np.random.default_rng(seed)
    leaves = {path: _draw(rng, path, x) for path, x in reference.abstract(model).items()}
    return to_mtlora_reference(model, traverse_util.unflatten_dict(leaves, sep="/"))


def _draw(rng: np.random.Generator, path: str, leaf) -> np.ndarray:
    """Both signs, but variances and counters are positive."""
    positive = path.endswith(("/var", "/steps"))
    return (rng.uniform(1, 9, leaf.shape) if positive else rng.normal(0, 0.4, leaf.shape)).astype(leaf.dtype)

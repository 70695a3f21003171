"""The embedded Swin as an image encoder: its last two maps on one grid."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import traverse_util

from mtlora_jax.encoders import Encoder
from mtlora_jax.errors import UserError
from mtlora_jax.images.transforms import MEAN, STD
from mtlora_jax.vision.swin import Swin, SwinSpec, swin
from mtlora_jax.vision.swin_weights import BACKBONE, load_backbone

NAME = "scenes_nano"


def scenes_nano(weights: str = "") -> Encoder:
    """`[B, 128, 128, 3]` to `[B, 64, 288]`: the maps of 8 x 8 and, repeated over it, of 4 x 4."""
    if weights:
        raise UserError(f"{NAME} is shipped with its weights: leave out the file")
    spec = replace(swin("nano"), drop_path=0.0)
    leaves = {path.removeprefix(BACKBONE): leaf for path, leaf in load_backbone(NAME, spec).items()}
    variables = {"params": traverse_util.unflatten_dict(leaves, sep="/")}
    features = spec.feature_map(1)[1] + spec.feature_map(3)[1]
    return Encoder(NAME, spec.image_size, jax.jit(lambda *args: maps(spec, *args)), variables, features)


def maps(spec: SwinSpec, variables, images: jax.Array) -> jax.Array:
    """The maps after the second stage and after the last, `[B, N, F]` on the grid of the first of them."""
    mean, deviation = (jnp.array(value, jnp.float32).reshape(1, 1, 1, 3) for value in (MEAN, STD))
    found = Swin(spec).apply(variables, (images.astype(jnp.float32) / 255 - mean) / deviation)
    fine, coarse = found[1], found[3]
    times = fine.shape[1] // coarse.shape[1]
    coarse = coarse.repeat(times, axis=1).repeat(times, axis=2)
    both = jnp.concatenate([fine, coarse], axis=-1)
    return both.reshape(len(both), -1, both.shape[-1])

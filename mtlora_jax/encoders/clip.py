"""CLIP's RN101 as an image encoder (Radford et al., ICML 2021, section 2.4): its last map, before attention pooling.

A ResNet of three stem convolutions, whose strides are average pools before the convolutions. Weights are those of
OpenAI's own file `RN101.pt`, a TorchScript archive; nothing in it is executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mtlora_jax.encoders import Encoder
from mtlora_jax.errors import UserError
from mtlora_jax.weights import mapping
from mtlora_jax.weights.hub import read
from mtlora_jax.weights.mapping import CONV, Row, layer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pictures."""


@dataclass(frozen=True)
class ResNetSpec:
    """A trunk of CLIP's kind.

    Attributes:
      depths: bottlenecks of each of the four stages.
      width: channels of the stem.
      size: S, rows and columns of a picture.
    """

    depths: tuple[int, ...] = (3, 4, 23, 3)
    width: int = 64
    size: int = 224


class Norm(nn.Module):
    """Batch normalisation by running statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, var = self.param("mean", zeros, shape), self.param("var", ones, shape)
        factor = scale * jax.lax.rsqrt(var + 1e-5)
        return x * jnp.broadcast_to(factor, x.shape) + jnp.broadcast_to(bias - mean * factor, x.shape)


def conv(features: int, side: int, stride: int, name: str) -> nn.Conv:
    padding = side // 2
    return nn.Conv(features, (side, side), (stride, stride), padding=padding, use_bias=False, name=name)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside the identity, or beside a pooled and projected one."""

    planes: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, 4 planes]`."""
        pool = (self.stride, self.stride)
        y = nn.relu(Norm(name="bn1")(conv(self.planes, 1, 1, "conv1")(x)))
        y = nn.relu(Norm(name="bn2")(conv(self.planes, 3, 1, "conv2")(y)))
        y = nn.avg_pool(y, pool, pool)
        y = Norm(name="bn3")(conv(4 * self.planes, 1, 1, "conv3")(y))
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = nn.avg_pool(x, pool, pool)
            x = Norm(name="downsample_1")(conv(4 * self.planes, 1, 1, "downsample_0")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The trunk."""

    spec: ResNetSpec

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """`[B, S, S, 3]`, normalised, to `[B, S / 32, S / 32, 32 width]`."""
        s, x = self.spec, images
        for i, (features, stride) in enumerate(((s.width // 2, 2), (s.width // 2, 1), (s.width, 1)), 1):
            x = nn.relu(Norm(name=f"bn{i}")(conv(features, 3, stride, f"conv{i}")(x)))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for stage, depth in enumerate(s.depths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                x = Bottleneck(s.width * 2**stage, stride, name=f"layer{stage + 1}_{block}")(x)
        return x


ROWS: tuple[Row, ...] = (
    *layer(r"params/(conv\d|bn\d)", r"visual.\1", CONV),
    *layer(r"params/(layer\d)_(\d+)/downsample_(\d)", r"visual.\1.\2.downsample.\3", CONV),
    *layer(r"params/(layer\d)_(\d+)/(\w+)", r"visual.\1.\2.\3", CONV),
)
DROPPABLE = (r"(?!visual\.).*", r"visual\.attnpool\..*", r".*\.num_batches_tracked")
"""The text side, and the pooling that comes after the map."""


def rn101(weights: str) -> Encoder:
    """`[B, 224, 224, 3]` to `[B, 49, 2048]`. Raises UserError without a file, or for a file of another network."""
    if not weights:
        raise UserError("RN101 needs its weights, OpenAI's RN101.pt: say where they are with --weights=FILE")
    return encoder("RN101", weights, ResNetSpec())


def encoder(name: str, weights: str, spec: ResNetSpec) -> Encoder:
    """A trunk with the weights of a file."""
    tensors, _ = read(weights)
    variables = load(tensors, spec, weights)
    return Encoder(name, spec.size, jax.jit(lambda *args: maps(spec, *args)), variables, 32 * spec.width)


def load(tensors: Mapping[str, np.ndarray], spec: ResNetSpec, where: str) -> dict:
    """The variables of a trunk."""
    wanted = jax.eval_shape(lambda: ResNet(spec).init(jax.random.key(0), jnp.zeros((1, spec.size, spec.size, 3))))
    targets = traverse_util.flatten_dict(wanted, sep="/")
    return traverse_util.unflatten_dict(mapping.load(tensors, targets, ROWS, DROPPABLE, where), sep="/")


def maps(spec: ResNetSpec, variables, images: jax.Array) -> jax.Array:
    """The last map of uint8 pictures, `[B, N, F]` row by row."""
    mean, deviation = (jnp.array(value, jnp.float32).reshape(1, 1, 1, 3) for value in (MEAN, STD))
    found = ResNet(spec).apply(variables, (images.astype(jnp.float32) / 255 - mean) / deviation)
    return found.reshape(len(found), -1, found.shape[-1])

"""Decoder heads: from a task's maps to logits, on the first map's grid (`updecoder`: on 32 times that grid).

The four heads of the reference: hrnet (the paper's), segformer, aspp and updecoder. A head reads
`[[B, g_i, g_i, C_i] for each stage]` and returns `[B, h, h, channels]`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

HeadKind = Literal["hrnet", "segformer", "aspp", "updecoder"]
BATCH_NORM_EPS = 1e-5
MOMENTUM = 0.1
"""Weight of a new batch in the running statistics."""


def resize(x: jax.Array, height: int, width: int | None = None) -> jax.Array:
    """Bilinear, half-pixel centres, no antialiasing: `[B, h, w, C]` to `[B, height, width or height, C]`."""
    shape = (x.shape[0], height, width or height, x.shape[-1])
    return x if x.shape == shape else jax.image.resize(x, shape, "bilinear", antialias=False)


def uniform(fan_in: int) -> Callable:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of the reference's convolutions, weight and bias."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class BatchNorm(nn.Module):
    """Batch normalisation over the images that count.

    Differs from `nn.BatchNorm` where the reference does: the running variance takes the unbiased estimate. And in
    one promise: images whose label is missing enter neither the moments nor the running statistics, which keep
    their bits when no image counts. Under jit the moments are those of the global batch.
    """

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        """`[B, H, W, C]`; `valid` is `[B]`, None for all."""
        C = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (C,))
        var = self.variable("batch_stats", "var", jnp.ones, (C,))
        steps = self.variable("batch_stats", "steps", lambda: jnp.zeros((), jnp.int32))
        if not train:
            m, v = mean.value, var.value
        else:
            x32 = x.astype(jnp.float32)
            weight = jnp.ones(x.shape[0]) if valid is None else valid.astype(jnp.float32)
            weight = weight.reshape(-1, 1, 1, 1)
            n = weight.sum() * (x.shape[1] * x.shape[2])
            some = n > 0
            m = (x32 * weight).sum((0, 1, 2)) / jnp.maximum(n, 1)
            v = (jnp.square(x32 - m.reshape(1, 1, 1, C)) * weight).sum((0, 1, 2)) / jnp.maximum(n, 1)
            if not self.is_initializing():
                unbiased = v * (n / jnp.maximum(n - 1, 1))
                mean.value = jnp.where(some, (1 - MOMENTUM) * mean.value + MOMENTUM * m, mean.value)
                var.value = jnp.where(some, (1 - MOMENTUM) * var.value + MOMENTUM * unbiased, var.value)
                steps.value = steps.value + some
            m, v = jnp.where(some, m, mean.value), jnp.where(some, v, var.value)
        gain = scale * jax.lax.rsqrt(v + BATCH_NORM_EPS)
        shape = (1, 1, 1, C)
        y = x * gain.reshape(shape).astype(x.dtype) + (bias - m * gain).reshape(shape).astype(x.dtype)
        return y.astype(self.dtype or x.dtype)


class Head(nn.Module):
    """What all heads share: their output width, their inner width where they have one, and shorthands."""

    channels: int
    width: int = 256
    dtype: jnp.dtype | None = None

    def linear(self, x: jax.Array, features: int, name: str, use_bias: bool = True) -> jax.Array:
        """A 1 x 1 convolution, as the product that it is."""
        init = uniform(x.shape[-1])
        return nn.Dense(features, use_bias, self.dtype, kernel_init=init, bias_init=init, name=name)(x)

    def conv(self, x, features: int, name: str, use_bias: bool = True, dilation: int = 1) -> jax.Array:
        """A 3 x 3 convolution that keeps the grid."""
        init = uniform(9 * x.shape[-1])
        return nn.Conv(
            features,
            (3, 3),
            padding=dilation,
            kernel_dilation=dilation,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=init,
            bias_init=init,
            name=name,
        )(x)

    def norm_relu(self, x, name: str, train: bool, valid) -> jax.Array:
        return nn.relu(BatchNorm(self.dtype, name=name)(x, train, valid))

    def stack(self, maps: list[jax.Array]) -> jax.Array:
        """All maps on the first one's grid, side by side: `[B, g, g, sum C_i]`."""
        return jnp.concatenate([resize(x, maps[0].shape[1]) for x in maps], axis=-1)


class HRNet(Head):
    """1 x 1 convolution to four times the stacked width, BN, ReLU, 1 x 1 convolution."""

    @nn.compact
    def __call__(self, maps, train: bool, valid=None) -> jax.Array:
        x = self.stack(maps)
        x = self.linear(x, 4 * x.shape[-1], "expand")
        x = self.norm_relu(x, "norm", train, valid)
        return self.linear(x, self.channels, "out")


class SegFormer(Head):
    """Every level to `width`, stacked from coarse to fine, fused by a 1 x 1 convolution.

    `unused/{kernel,bias}` are leaves of the reference that no output depends on; they keep checkpoints complete.
    """

    @nn.compact
    def __call__(self, maps, train: bool, valid=None) -> jax.Array:
        levels = [self.linear(x, self.width, f"level_{i}") for i, x in enumerate(maps)]
        x = jnp.concatenate([resize(x, maps[0].shape[1]) for x in levels[::-1]], axis=-1)
        x = self.linear(x, self.width, "fuse", use_bias=False)
        x = self.norm_relu(x, "norm", train, valid)
        self.linear(jax.lax.stop_gradient(x[:1, :1, :1]), self.channels, "unused")
        x = nn.Dropout(0.1, broadcast_dims=(1, 2), deterministic=not train)(x)
        return self.linear(x, self.channels, "out")


class ASPP(Head):
    """Atrous spatial pyramid pooling (DeepLab v3): five branches, a projection, a 3 x 3 convolution."""

    @nn.compact
    def __call__(self, maps, train: bool, valid=None) -> jax.Array:
        x = self.stack(maps)
        pooled = x.mean((1, 2), keepdims=True)
        branches = [
            self.linear(x, self.width, "branch_0", use_bias=False),
            *(self.conv(x, self.width, f"branch_{i}", False, d) for i, d in ((1, 12), (2, 24), (3, 36))),
            self.linear(pooled, self.width, "branch_4", use_bias=False),
        ]
        branches = [self.norm_relu(y, f"norm_{i}", train, valid) for i, y in enumerate(branches)]
        branches[4] = jnp.broadcast_to(branches[4], branches[0].shape)
        x = self.linear(jnp.concatenate(branches, axis=-1), self.width, "project", use_bias=False)
        x = self.norm_relu(x, "project_norm", train, valid)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = self.norm_relu(self.conv(x, self.width, "conv", use_bias=False), "norm", train, valid)
        return self.linear(x, self.channels, "out")


class UpDecoder(Head):
    """Three 2 x 2 transposed convolutions, a 3 x 3 convolution, two bilinear doublings.

    Published quirks: the output grid is four times the image's side, and the last ReLU makes every logit >= 0.
    """

    width: int = 32

    @nn.compact
    def __call__(self, maps, train: bool, valid=None) -> jax.Array:
        x = self.stack(maps)
        for i in range(3):
            x = self.norm_relu(self.double(x, f"up_{i}"), f"up_norm_{i}", train, valid)
        x = self.norm_relu(self.conv(x, self.channels, "conv"), "norm", train, valid)
        for _ in range(2):
            x = resize(x, 2 * x.shape[1])
        return x

    def double(self, x: jax.Array, name: str) -> jax.Array:
        """A transposed convolution of kernel 2 and stride 2: every pixel becomes 2 x 2, none overlap."""
        B, H, W, C = x.shape
        kernel = self.param(f"{name}_kernel", uniform(4 * self.width), (2, 2, C, self.width))
        x = jnp.einsum("bhwi,yxio->bhywxo", x, kernel.astype(x.dtype))
        return x.reshape(B, 2 * H, 2 * W, self.width)


HEADS: dict[str, type[Head]] = {"hrnet": HRNet, "segformer": SegFormer, "aspp": ASPP, "updecoder": UpDecoder}

"""Pictures as tokens of a text encoder: VL-BART's visual embedding (Cho et al., ICML 2021, section 3.1)."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

EPS = 1e-5


@dataclass(frozen=True)
class VisualSpec:
    """What a picture's features are, and how they become tokens.

    Attributes:
      features: F, width of a feature.
      tokens: visual tokens of a picture; a square grid of another size is max-pooled to them.
      images: pictures that an example may have, at most.
      pool: whether grids are pooled; else any number of features is taken as it is.
      norm: `each` normalises features and boxes apart, `sum` their sum with the order embeddings, `none` nothing.
      order: add embeddings of the picture's and of the feature's number.
      cells: features of a grid that come without boxes have those of their cells, so that the model knows where they
        are; as published they have zeros.
    """

    features: int = 2048
    tokens: int = 36
    images: int = 2
    pool: bool = True
    norm: str = "each"
    order: bool = True
    cells: bool = False


def is_pooled(spec: VisualSpec, count: int) -> bool:
    """Whether a picture's features are a grid, and pooled."""
    return spec.pool and math.isqrt(count) ** 2 == count


def pooled(x: jax.Array, tokens: int) -> jax.Array:
    """Adaptive max pooling of square grids.

    Output i of k covers rows `floor(i S / k)` to `ceil((i + 1) S / k) - 1` of S, and columns likewise, so that
    neighbours overlap where k does not divide S.

    Args:
      x: `[B, I, S * S, F]`, row by row.
      tokens: k * k.

    Returns:
      `[B, I, k * k, F]`.
    """
    B, I, N, F = x.shape
    S, k = math.isqrt(N), math.isqrt(tokens)
    if k == S:
        return x

    def along(x: jax.Array, axis: int) -> jax.Array:
        spans = [(i * S // k, -(-(i + 1) * S // k)) for i in range(k)]
        return jnp.stack([jax.lax.slice_in_dim(x, *span, axis=axis).max(axis) for span in spans], axis)

    grid = x.reshape(B, I, S, S, F)
    return along(along(grid, 2), 3).reshape(B, I, tokens, F)


def cells(count: int) -> jax.Array:
    """`[N, 4]`, left, right, top and bottom of the cells of a square grid, in parts of the picture."""
    side = math.isqrt(count)
    row, column = jnp.divmod(jnp.arange(count), side)
    return jnp.stack([column, column + 1, row, row + 1], axis=-1) / side


class VisualEmbedding(nn.Module):
    """`norm(W f + b) + norm(W' [box, area] + b') + image order + object order`."""

    spec: VisualSpec
    width: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features, boxes, words, *, image_ids=None, object_ids=None) -> jax.Array:
        """Visual tokens of every picture, one picture's after the other's.

        Args:
          features: `[B, I, N, F]`.
          boxes: `[B, I, N, 4]`, or None for zeros, or cells. The area is `(b3 - b2) (b1 - b0)`, as published.
          words: `[V, D]`, the table of word embeddings; object k is its row V - 1 - k.
          image_ids, object_ids: `[B, I * N]` numbers of picture and feature; None counts them.

        Returns:
          `[B, I * tokens, D]`.
        """
        s = self.spec
        if is_pooled(s, features.shape[2]):
            features = pooled(features, s.tokens)
        B, I, N, _ = features.shape
        if boxes is None:
            boxes = jnp.broadcast_to((cells(N) if s.cells else jnp.zeros((N, 4)))[None, None], (B, I, N, 4))
        boxes = boxes[:, :, :N]
        area = (boxes[..., 3] - boxes[..., 2]) * (boxes[..., 1] - boxes[..., 0])
        boxes = jnp.concatenate([boxes, area[..., None]], axis=-1)
        tokens = self._normed("features", self._dense("features")(features), "each")
        tokens = tokens + self._normed("boxes", self._dense("boxes")(boxes), "each")
        tokens = tokens.reshape(B, I * N, self.width)
        if s.order:
            order = jnp.arange(I * N)[None]
            image_ids = order // N if image_ids is None else image_ids
            object_ids = order % N if object_ids is None else object_ids
            images = self.param("image_order", nn.initializers.normal(0.02), (s.images, self.width))
            tokens = tokens + jnp.take(images, image_ids, axis=0).astype(tokens.dtype)
            tokens = tokens + jnp.take(words, len(words) - 1 - object_ids, axis=0).astype(tokens.dtype)
        return self._normed("sum", tokens, "sum")

    def _dense(self, name: str) -> nn.Dense:
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02), name=name)

    def _normed(self, name: str, x: jax.Array, where: str) -> jax.Array:
        if self.spec.norm != where:
            return x
        return nn.LayerNorm(epsilon=EPS, dtype=self.dtype, use_fast_variance=False, name=f"{name}_norm")(x)

"""The dense multi-task model: backbone, projections of its feature maps for each task, one head per task."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlora_jax.adapters import Streams
from mtlora_jax.vision.heads import HEADS, HeadKind, resize
from mtlora_jax.vision.placement import Folded, Placement
from mtlora_jax.vision.swin import Swin, SwinSpec


@dataclass(frozen=True)
class HeadSpec:
    """One task's head: how many channels it puts out, and its kind."""

    channels: int
    kind: HeadKind = "hrnet"


class Projections(nn.Module):
    """A bias-free 1 x 1 convolution per stage, for each task or one for all."""

    tasks: tuple[str, ...]
    channels: tuple[int, ...]
    per_task: bool = True

    @nn.compact
    def __call__(self, widths: tuple[int, ...]) -> tuple[jax.Array, ...]:
        """Per stage the stacked kernels `[T, C_i, P_i]`."""
        owners = self.tasks if self.per_task else ("shared",)
        kernels = [_Levels(widths, self.channels, name=owner)() for owner in owners]
        kernels = kernels if self.per_task else kernels * len(self.tasks)
        return tuple(jnp.stack(level) for level in zip(*kernels, strict=True))


class _Levels(nn.Module):
    widths: tuple[int, ...]
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self) -> list[jax.Array]:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        pairs = zip(self.widths, self.channels, strict=True)
        return [self.param(f"level_{i}", init, pair) for i, pair in enumerate(pairs)]


class DenseModel(nn.Module):
    """Swin with MTLoRA and a decoder per task (CVPR 2024, metric 2).

    Attributes:
      backbone: the Swin's shape.
      heads: `{task: HeadSpec}`; its order is the order of the task streams.
      placement: where MTLoRA sits; None for a plain backbone.
      decoder_channels: P_i, channels that each stage's feature map is projected to; None projects none.
      shared_projection: one projection for all tasks instead of one each.
      head_width: inner width of segformer heads.
      folded: adapters that merge exactly are in the kernels, for inference (see `mtlora_jax.vision.fold`).
      dtype: compute dtype; leaves, norms' statistics, softmax and outputs stay in float32.
    """

    backbone: SwinSpec
    heads: Mapping[str, HeadSpec]
    placement: Placement | None = None
    decoder_channels: tuple[int, ...] | None = (18, 36, 72, 144)
    shared_projection: bool = False
    head_width: int = 256
    folded: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def logits(
        self, images: jax.Array, *, train: bool = False, valid: Mapping[str, jax.Array] | None = None
    ) -> dict[str, jax.Array]:
        """Outputs on the heads' own grid, which is what training resizes inside the loss.

        Args:
          images: `[B, S, S, 3]`, normalised.
          train: dropout and drop path draw from the `dropout` rng stream; heads use and update batch moments.
          valid: `{task: [B]}`: images whose label exists; others stay out of that head's moments.

        Returns:
          `{task: [B, g, g, channels]}`, float32.
        """
        spec, tasks = self.backbone, tuple(self.heads)
        projections = None
        if self.decoder_channels is not None:
            widths = tuple(spec.feature_map(i)[1] for i in range(spec.stages))
            projections = Projections(tasks, self.decoder_channels, not self.shared_projection, name="projections")(
                widths
            )
        placement = Folded(**vars(self.placement)) if self.placement and self.folded else self.placement
        maps = Swin(spec, placement, tasks, self.dtype, name="backbone")(images, train=train, projections=projections)
        features = [self._per_task(x, None if projections is None else projections[i]) for i, x in enumerate(maps)]
        outputs = {}
        for t, (task, head) in enumerate(self.heads.items()):
            kind = HEADS[head.kind]
            width = {"width": self.head_width} if head.kind == "segformer" else {}
            module = kind(head.channels, dtype=self.dtype, name=f"heads_{task}", **width)
            of_task = [x[t] for x in features]
            outputs[task] = module(of_task, train, None if valid is None else valid[task]).astype(jnp.float32)
        return outputs

    def _per_task(self, feature_map: jax.Array | Streams, projection: jax.Array | None) -> jax.Array:
        """A stage's feature map as every task's decoder reads it, `[T, B, H, W, P]`."""
        if isinstance(feature_map, Streams):
            return feature_map.tasks
        if projection is None:
            return jnp.broadcast_to(feature_map, (len(self.heads), *feature_map.shape))
        return jnp.einsum("...i,tip->t...p", feature_map, projection.astype(feature_map.dtype))

    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Outputs at the image's size: `[B, S, S, 3]` to `{task: [B, S, S, channels]}`, float32."""
        return {task: resize(x, images.shape[1]) for task, x in self.logits(images, train=train).items()}

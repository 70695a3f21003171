"""The dense multi-task model: backbone, per-task projections of its taps, one head per task."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtlora_jax.adapters import Streams
from mtlora_jax.vision.heads import HEADS, HeadKind, resize
from mtlora_jax.vision.placement import Placement
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
    """Swin with MTLoRA and a decoder per task (CVPR 2024, figure 2).

    Attributes:
      backbone: the Swin's shape.
      heads: `{task: HeadSpec}`; its order is the order of the task streams.
      placement: where MTLoRA sits; None for a plain backbone.
      decoder_channels: P_i, what each stage's tap is projected to; None gives heads the taps themselves.
      shared_projection: one projection for all tasks instead of one each.
      head_width: inner width of segformer heads.
      dtype: compute dtype; leaves, norms' statistics, softmax and outputs stay in float32.
    """

    backbone: SwinSpec
    heads: Mapping[str, HeadSpec]
    placement: Placement | None = None
    decoder_channels: tuple[int, ...] | None = (18, 36, 72, 144)
    shared_projection: bool = False
    head_width: int = 256
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
        then = None
        if self.decoder_channels is not None:
            widths = tuple(spec.tap(i)[1] for i in range(spec.stages))
            then = Projections(tasks, self.decoder_channels, not self.shared_projection, name="projections")(widths)
        taps = Swin(spec, self.placement, tasks, self.dtype, name="backbone")(images, train=train, then=then)
        features = [self._per_task(tap, None if then is None else then[i]) for i, tap in enumerate(taps)]
        outputs = {}
        for t, (task, head) in enumerate(self.heads.items()):
            kind = HEADS[head.kind]
            width = {"width": self.head_width} if head.kind == "segformer" else {}
            module = kind(head.channels, dtype=self.dtype, name=f"heads_{task}", **width)
            of_task = [x[t] for x in features]
            outputs[task] = module(of_task, train, None if valid is None else valid[task]).astype(jnp.float32)
        return outputs

    def _per_task(self, tap: jax.Array | Streams, then: jax.Array | None) -> jax.Array:
        """A stage's tap as every task's decoder reads it, `[T, B, H, W, P]`."""
        if isinstance(tap, Streams):
            return tap.tasks
        if then is None:
            return jnp.broadcast_to(tap, (len(self.heads), *tap.shape))
        return jnp.einsum("...i,tip->t...p", tap, then.astype(tap.dtype))

    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Outputs at the image's size: `[B, S, S, 3]` to `{task: [B, S, S, channels]}`, float32."""
        return {task: resize(x, images.shape[1]) for task, x in self.logits(images, train=train).items()}

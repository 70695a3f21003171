"""Swin Transformer (Liu et al., ICCV 2021) whose layers may carry MTLoRA and whose stages emit `Streams`.

Parameter paths follow the original's names: `layers_0/blocks_1/attn/qkv/kernel`,
`layers_0/downsample/reduction/kernel`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtlora_jax.adapters import PARTS, Dense, Spec, Streams, shared, smap
from mtlora_jax.devices import on_tpu
from mtlora_jax.vision.attention import attend
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.windows import Windows, relative_position_index

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class SwinSpec:
    """A Swin backbone.

    Attributes:
      image_size: side S of the square image, in pixels; every stage's grid must be divisible by the window or no
        larger than it.
      window: side of an attention window, in tokens.
      dim: channels C of the first stage; each further stage doubles them.
      depths, heads: blocks and attention heads per stage.
      patch: side of a patch, in pixels.
      mlp_ratio: hidden width of the MLP over C.
      qkv_bias: whether the fused q, k, v projection has a bias.
      qk_scale: multiplier of the logits; None stands for 1 / sqrt(head width).
      absolute_position: add a learned position embedding to the patches.
      patch_norm: LayerNorm after the patch embedding.
      drop_path: stochastic depth of the last block; it grows linearly from 0.
    """

    image_size: int = 224
    window: int = 7
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    absolute_position: bool = False
    patch_norm: bool = True
    drop_path: float = 0.0

    def grid(self, stage: int) -> int:
        """Tokens along one side inside a stage."""
        return self.image_size // self.patch // 2**stage

    def width(self, stage: int) -> int:
        return self.dim * 2**stage

    def attention(self, stage: int, block: int) -> tuple[int, int]:
        """`(window, shift)` of a block: windows shrink to a smaller grid, every other block shifts a larger one."""
        grid = self.grid(stage)
        return min(self.window, grid), self.window // 2 if block % 2 and grid > self.window else 0

    @property
    def stages(self) -> int:
        return len(self.depths)

    def feature_map(self, stage: int) -> tuple[int, int]:
        """`(side, channels)` of what a stage hands to the decoders: taken after patch merging."""
        after = min(stage + 1, self.stages - 1)
        return self.grid(after), self.width(after)

    def problems(self) -> str | None:
        """Why no such backbone exists, in one line, or None."""
        sizes = {name: getattr(self, name) for name in ("image_size", "window", "dim", "patch", "mlp_ratio")}
        sizes["1 - drop_path"] = 1 - self.drop_path
        sizes |= {f"{name}[{i}]": n for name in ("depths", "heads") for i, n in enumerate(getattr(self, name))}
        if bad := next((name for name, size in sizes.items() if not 0 < size < 1e6), None):
            return f"{bad} must be above 0, not {sizes[bad]}"
        if not self.stages or len(self.heads) != self.stages:
            return f"{self.stages} depths but {len(self.heads)} head counts"
        if self.image_size % (self.patch * 2 ** (self.stages - 1)):
            step = self.patch * 2 ** (self.stages - 1)
            near = max(round(self.image_size / step), 1) * step
            return f"image_size {self.image_size} is not a multiple of {step}; {near} is"
        for stage, heads in enumerate(self.heads):
            grid = self.grid(stage)
            if grid > self.window and grid % self.window:
                unit = self.window * self.patch * 2 ** (self.stages - 1)
                near = max(round(self.image_size / unit), 1) * unit
                return (
                    f"image_size {self.image_size} gives stage {stage} a grid of {grid} tokens, which windows of "
                    f"{self.window} do not divide; image_size {near} works"
                )
            if self.width(stage) % heads:
                return f"stage {stage} has {self.width(stage)} channels, which {heads} heads do not divide"
        return None


VARIANTS: dict[str, dict] = {
    "nano": {"dim": 24, "depths": (2, 2, 4, 2), "heads": (2, 4, 8, 16), "window": 4, "image_size": 128},
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "large": {"dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}


def swin(variant: str, **changes) -> SwinSpec:
    """A published size by name (`nano` is ours, small enough to train on two cores)."""
    return SwinSpec(**{**VARIANTS[variant], **changes})


linear_init = nn.initializers.normal(0.02)


def layer_norm(name: str, dtype) -> nn.LayerNorm:
    """Statistics in float32 whatever the compute dtype."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=dtype, name=name)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a relative position bias.

    Attends in the shared stream alone; task streams may begin in its output projection.
    """

    spec: SwinSpec
    heads: int
    window: int
    shift: int
    qkv: Spec | None = None
    slots: tuple[str, ...] = ()
    proj: Spec | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array | Streams:
        """`[B, H, W, C]` to the same, or to `Streams` of it."""
        C, heads = x.shape[-1], self.heads
        table = self.param("relative_position_bias_table", linear_init, ((2 * self.window - 1) ** 2, heads))
        bias_KxNxN = jnp.moveaxis(table[relative_position_index(self.window)], -1, 0).astype(jnp.float32)
        x = Dense(
            3 * C,
            use_bias=self.spec.qkv_bias,
            adapter=self.qkv,
            slots=self.slots,
            dtype=self.dtype,
            kernel_init=linear_init,
            name="qkv",
        )(x, train=train)

        windows = Windows(self.window, self.shift, self.spec.qk_scale or (C // heads) ** -0.5)
        x = attend(x.reshape(*x.shape[:3], 3, heads, C // heads), bias_KxNxN, windows)
        # proj works token by token: windows are undone once, before there are task streams.
        return Dense(C, adapter=self.proj, dtype=self.dtype, kernel_init=linear_init, name="proj")(x, train=train)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU. Through erf, as the original: Flax's goes through erfc, which costs an exponential more."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Mlp(nn.Module):
    """fc1, exact GELU, fc2. A layer without task adapters reads, and returns, the shared stream alone."""

    hidden: int
    fc1: Spec | None = None
    fc2: Spec | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array | Streams, train: bool) -> jax.Array | Streams:
        def layer(self: nn.Module, x: jax.Array | Streams, name: str, adapter: Spec | None, features: int):
            x = x if getattr(adapter, "tasks", ()) else shared(x)
            dense = Dense(features, adapter=adapter, dtype=self.dtype, kernel_init=linear_init, name=name)
            return dense(x, train=train)

        def hidden(self: nn.Module, x: jax.Array | Streams) -> jax.Array | Streams:
            return smap(gelu, layer(self, x, "fc1", self.fc1, self.hidden))

        if getattr(self.fc1, "tasks", ()) and on_tpu() and not self.is_initializing():
            # A task's stream is the shared product and a narrow update: to make it again moves fewer bytes than to keep
            # the GELU's derivative of each.
            hidden = nn.remat(hidden, policy=jax.checkpoint_policies.save_only_these_names(PARTS))
        return layer(self, hidden(self, x), "fc2", self.fc2, shared(x).shape[-1])


class DropPath(nn.Module):
    """Stochastic depth: drops an example's whole branch; every stream draws its own mask."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array | Streams, train: bool) -> jax.Array | Streams:
        if not train or self.rate == 0:
            return x
        if isinstance(x, Streams):
            return Streams(self.drop(x.shared, 1), self.drop(x.tasks, 2))
        return self.drop(x, 1)

    def drop(self, x: jax.Array, batch_axes: int) -> jax.Array:
        shape = x.shape[:batch_axes] + (1,) * (x.ndim - batch_axes)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return x * (keep / (1 - self.rate)).astype(x.dtype)


class Block(nn.Module):
    """A Swin block. Task streams begin in the first layer that has task adapters; all other weights are common."""

    spec: SwinSpec
    stage: int
    index: int
    drop_path: float = 0.0
    placement: Placement | None = None
    tasks: tuple[str, ...] = ()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array | Streams:
        """`[B, H, W, C]` to the same, or to `Streams` of it."""
        C = x.shape[-1]
        window, shift = self.spec.attention(self.stage, self.index)
        last = self.index == self.spec.depths[self.stage] - 1
        placement = self.placement or Placement(shared_rank=(0,))
        adapter = {
            layer: placement.spec(layer, self.stage, last, self.tasks) for layer in ("qkv", "proj", "fc1", "fc2")
        }
        attention = WindowAttention(
            self.spec,
            self.spec.heads[self.stage],
            window,
            shift,
            qkv=adapter["qkv"],
            slots=("q", "k", "v") if placement.split_qkv and adapter["qkv"] else (),
            proj=adapter["proj"],
            dtype=self.dtype,
            name="attn",
        )
        mlp = Mlp(int(C * self.spec.mlp_ratio), adapter["fc1"], adapter["fc2"], self.dtype, name="mlp")

        drop_path = DropPath(self.drop_path)
        branch = attention(layer_norm("norm1", self.dtype)(x), train)
        x = _add(x, drop_path(branch, train))
        branch = drop_path(mlp(smap(layer_norm("norm2", self.dtype), x), train), train)
        if isinstance(branch, Streams) and not isinstance(x, Streams) and placement.task_residual == "published":
            # proj is not adapted: the reference has no task stream to add to, and drops the residual.
            return Streams(x + branch.shared, branch.tasks)
        return _add(x if isinstance(branch, Streams) else shared(x), branch)


def _add(x: jax.Array | Streams, branch: jax.Array | Streams) -> jax.Array | Streams:
    if isinstance(x, Streams):
        return Streams(x.shared + branch.shared, x.tasks + branch.tasks)
    if isinstance(branch, Streams):
        return Streams(x + branch.shared, x[None] + branch.tasks)
    return x + branch


class PatchMerging(nn.Module):
    """Joins 2 x 2 tokens: LayerNorm of 4C channels, then a linear map to 2C without bias."""

    adapter: Spec | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array | Streams, train: bool, projection: jax.Array | None = None) -> jax.Array | Streams:
        """`[..., H, W, C]` to `[..., H/2, W/2, 2C]`, task streams to P channels where there is a projection.

        Args:
          projection: `[T, 2C, P]`, a linear map that follows for each task's stream; see `adapters.Dense`.
        """
        x = smap(_join_2x2, x)
        if on_tpu():  # which would else widen to the norm's float32 first, and turn twice the bytes
            x = jax.lax.optimization_barrier(x)
        x = smap(layer_norm("norm", self.dtype), x)
        return Dense(
            shared(x).shape[-1] // 2,
            use_bias=False,
            adapter=self.adapter,
            dtype=self.dtype,
            kernel_init=linear_init,
            name="reduction",
        )(x, train=train, projection=projection)


def _join_2x2(x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` to `[..., H/2, W/2, 4C]`, channels in the order (even y, even x), (odd, even), (even, odd),
    (odd, odd)."""
    *lead, H, W, C = x.shape
    x = x.reshape(*lead, H // 2, 2, W // 2, 2, C)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 3, n + 1, n + 4)  # [..., H/2, W/2, x parity, y parity, C]
    return x.reshape(*lead, H // 2, W // 2, 4 * C)


class Stage(nn.Module):
    """Blocks, then patch merging. Only the shared stream goes on to the next stage."""

    spec: SwinSpec
    index: int
    placement: Placement | None = None
    tasks: tuple[str, ...] = ()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, projection: jax.Array | None = None) -> jax.Array | Streams:
        """`[B, H, W, C]` to the stage's feature map; the projection as in `PatchMerging`, or applied here where nothing
        merges."""
        depths = self.spec.depths
        rates = np.linspace(0, self.spec.drop_path, sum(depths))[sum(depths[: self.index]) :]
        for j in range(depths[self.index]):
            block = Block(
                self.spec,
                self.index,
                j,
                float(rates[j]),
                self.placement,
                self.tasks,
                self.dtype,
                name=f"blocks_{j}",
            )
            x = block(shared(x), train)
        if self.index < self.spec.stages - 1:
            adapter = self.placement and self.placement.spec("reduction", self.index, True, self.tasks)
            return PatchMerging(adapter, self.dtype, name="downsample")(x, train, projection)
        if projection is not None and isinstance(x, Streams):
            return Streams(x.shared, jnp.einsum("t...i,tip->t...p", x.tasks, projection.astype(x.tasks.dtype)))
        return x


class PatchEmbed(nn.Module):
    """Non-overlapping patches, linearly embedded."""

    spec: SwinSpec
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """`[B, S, S, 3]` to `[B, S/patch, S/patch, C]`."""
        patch, C = self.spec.patch, self.spec.dim
        bound = (3 * patch * patch) ** -0.5
        init = nn.initializers.uniform(2 * bound)
        x = nn.Conv(
            C,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=lambda *a: init(*a) - bound,
            bias_init=lambda *a: init(*a) - bound,
            name="proj",
        )(images)
        return layer_norm("norm", self.dtype)(x) if self.spec.patch_norm else x


class Swin(nn.Module):
    """The backbone.

    Attributes:
      spec: its shape.
      placement: where MTLoRA sits; None for a plain Swin.
      tasks: task names in stream order.
      dtype: compute dtype; None for the input's.
    """

    spec: SwinSpec
    placement: Placement | None = None
    tasks: tuple[str, ...] = ()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, projections: tuple[jax.Array, ...] | None = None
    ) -> list[jax.Array | Streams]:
        """The feature maps of all stages.

        Args:
          images: `[B, S, S, 3]`, normalised.
          train: whether dropout and drop path draw from the `dropout` rng stream.
          projections: per stage, `[T, C_i, P_i]`, a linear map that follows for each task's stream; given here they are
            composed with patch merging. Shared streams are not projected.

        Returns:
          Per stage `[B, H, W, C]`, or `Streams` of it where the stage's last block has task adapters; shapes by
          `SwinSpec.feature_map`.
        """
        x = PatchEmbed(self.spec, self.dtype, name="patch_embed")(images)
        if self.spec.absolute_position:
            table = self.param("absolute_pos_embed", linear_init, (1, self.spec.grid(0) ** 2, self.spec.dim))
            x = x + jnp.broadcast_to(table.reshape(1, *x.shape[1:]).astype(x.dtype), x.shape)
        maps = []
        for i in range(self.spec.stages):
            stage = Stage(self.spec, i, self.placement, self.tasks, self.dtype, name=f"layers_{i}")
            maps.append(stage(shared(x), train, None if projections is None else projections[i]))
            x = maps[-1]
        return maps

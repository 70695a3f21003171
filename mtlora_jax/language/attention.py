"""Attention with grouped queries; causal among the tokens of one segment, or over any mask."""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from mtlora_jax.adapters.dropout import dropout
from mtlora_jax.devices import BATCH_AXES, LANES, on_nvidia, on_tpu, traced
from mtlora_jax.language.sites import KEPT

Drop = tuple[float, jax.Array]
"""A probability, and the key that decides."""
BLOCK = 512
"""Tokens that the kernel for TPUs takes at once, at most."""
MASKED = -1e30
"""A logit that softmax turns into 0, finite so that rows without any token stay finite."""


def positions_of(segment_ids: jax.Array) -> jax.Array:
    """`[B, L]`, each token's position in its segment, from 0; padding is not counted."""
    length = segment_ids.shape[1]
    order = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], segment_ids.shape)
    starts = (segment_ids > 0) & (segment_ids != jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1])
    first = jax.lax.cummax(jnp.where(starts, order, 0), axis=1)
    return jnp.where(segment_ids > 0, order - first, 0)


def lengths_of(segment_ids: jax.Array) -> jax.Array:
    """`[B, L]`, how many tokens each token's segment has; of padding it means nothing."""
    length = segment_ids.shape[1]
    order = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], segment_ids.shape)
    ends = segment_ids != jnp.pad(segment_ids, ((0, 0), (0, 1)), constant_values=-1)[:, 1:]
    last = jax.lax.cummin(jnp.where(ends, order, length), axis=1, reverse=True)
    return jnp.take_along_axis(positions_of(segment_ids), last, axis=1) + 1


def causal_mask(segment_ids: jax.Array, reach: int = 0) -> jax.Array:
    """`[B, L, L]` bool, query by key: which tokens a token sees.

    Args:
      segment_ids: `[B, L]`; a token sees itself and earlier tokens of its own segment, and no padding (0).
      reach: it sees at most `reach - 1` earlier ones; 0 sets no bound.
    """
    order = jnp.arange(segment_ids.shape[1])
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    return same & within(order, order, reach)[None]


def within(queries: jax.Array, keys: jax.Array, reach: int) -> jax.Array:
    """`[..., L, M]` bool: keys at places `[..., M]` that are those of the queries, `[..., L]`, or lie before them; by
    less than `reach`, unless that is 0."""
    before = queries[..., :, None] - keys[..., None, :]
    return (before >= 0) & (before < reach) if reach else before >= 0


@struct.dataclass
class Mask:
    """Which tokens a query sees.

    Attributes:
      allowed: `[B, L, M]` bool, query by key, B and L being 1 where all are alike; or by blocks,
        `[B, blocks, reach, 2 reach]`.
      reach: 0 where `allowed` tells all. Else queries and keys are the same tokens, and a token sees itself and at
        most `reach - 1` before it.
      segments: the same by each token's segment, `[B, L]`, where `mask_of` made it of those.
    """

    allowed: jax.Array
    reach: int = struct.field(pytree_node=False, default=0)
    segments: jax.Array | None = None


def mask_of(segment_ids: jax.Array, reach: int = 0) -> Mask:
    """`causal_mask`, as the platform takes it.

    Without a fused kernel that skips what no token sees, a row is cut into blocks of `reach` tokens where that makes
    two blocks or more: what a token sees lies in its own block or in the one before, and a whole mask of L tokens would
    cost L / (2 reach) times as much.

    Args:
      segment_ids: `[B, L]`, see `causal_mask`.
      reach: tokens of the longest segment, or of a model's window; 0 where there is neither.
    """
    length = segment_ids.shape[1]
    reach = min(reach or length, length)
    if on_nvidia() or 2 * reach >= length:
        return Mask(causal_mask(segment_ids, reach), reach, segment_ids)
    return blocks_mask(segment_ids, reach).replace(segments=segment_ids)


def blocks_mask(segment_ids: jax.Array, reach: int) -> Mask:
    """`causal_mask` by blocks of `reach` tokens, the most that a token sees."""
    blocks = _blocks(segment_ids, reach)
    keys = _with_previous(blocks)
    order = jnp.arange(2 * reach)
    seen = within(order[reach:], order, reach)
    same = (blocks[..., :, None] == keys[..., None, :]) & (keys[..., None, :] > 0)
    return Mask(same & seen[None, None], reach)


def _blocks(x: jax.Array, size: int) -> jax.Array:
    """`[B, L, ...]` to `[B, blocks, size, ...]`, the last block filled up with zeros."""
    B, L = x.shape[:2]
    x = jnp.pad(x, ((0, 0), (0, -L % size), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(B, -1, size, *x.shape[2:])


def _with_previous(blocks: jax.Array) -> jax.Array:
    """Every block after the one before it, `[B, blocks, 2 size, ...]`; zeros lie before the first."""
    before = jnp.pad(blocks, ((0, 0), (1, 0), *((0, 0),) * (blocks.ndim - 2)))[:, :-1]
    return jnp.concatenate([before, blocks], axis=2)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, drop: Drop | None = None) -> jax.Array:
    """Softmax attention, the softmax in float32; keys are shared by groups of queries, and never repeated.

    In half precision by one kernel that never writes a matrix of L by M: on an NVIDIA GPU cuDNN's, on a TPU JAX's own,
    for whole rows of tokens.

    Args:
      q: `[B, L, K, H]`, K query heads.
      k, v: `[B, M, G, H]`, G divides K; query head i reads key head `i // (K / G)`.
      mask: what each query sees.
      drop: probability and key of dropping a weight while training, which no fused kernel does.

    Returns:
      `[B, L, K, H]`.
    """
    B, L, K, H = q.shape
    if drop is None and on_tpu() and has_splash(q, mask):
        return splash(q, k, v, mask)
    if mask.allowed.ndim == 4:
        q = _blocks(q, mask.reach)
        k, v = (_with_previous(_blocks(x, mask.reach)) for x in (k, v))
        q, k, v, allowed = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v, mask.allowed))
        return attend(q, k, v, Mask(allowed), drop).reshape(B, -1, K, H)[:, :L]
    if drop is None and _is_fused(q, k):
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=jnp.broadcast_to(mask.allowed, (B, L, k.shape[1]))[:, None],
            is_causal=mask.reach > 0,
            local_window_size=(mask.reach - 1, 0) if 0 < mask.reach < L else None,
            implementation="cudnn",
        )
    return plain(q, k, v, mask.allowed, drop)


def plain(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array, drop: Drop | None = None) -> jax.Array:
    """`attend`, by matrix products; `allowed` is `[B, L, M]` bool, or broadcasts to it."""
    B, L, K, H = q.shape
    G = k.shape[2]
    grouped = q.reshape(B, L, G, K // G, H)
    logits = jnp.einsum("blgqh,bmgh->bgqlm", grouped, k).astype(jnp.float32) * H**-0.5
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], logits, MASKED), axis=-1).astype(q.dtype)
    if drop is not None:
        weights = dropout(weights, *drop)
    return jnp.einsum("bgqlm,bmgh->blgqh", weights, v).reshape(B, L, K, H)


def has_splash(q: jax.Array, mask: Mask) -> bool:
    """Whether a TPU's kernel takes them: half precision, the tokens of segments, whole lanes of tokens and of a head's
    width."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and mask.segments is not None and q.shape[1] % LANES == 0 and q.shape[3] % LANES == 0


def splash(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, interpret: bool = False) -> jax.Array:
    """`attend` among the tokens of segments, by the kernel for TPUs that comes with JAX; a mesh's devices each run it
    on their own examples and heads. Padding sees padding, whose states nothing reads."""
    # Imported where needed: it takes a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    L, H = q.shape[1], q.shape[3]
    size = math.gcd(L, BLOCK)
    # Two kernels for the backward pass: in one, each block of keys writes a gradient of all queries.
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = kernels.BlockSizes(**{f"block_{name}": size for name in names})
    seen = masks.LocalMask((L, L), (mask.reach - 1, 0), 0) if 0 < mask.reach < L else masks.CausalMask((L, L))

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        run = kernels.make_splash_mha(
            masks.MultiHeadMask([seen] * q.shape[2]),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=KEPT,
            interpret=interpret,
        )
        heads_first = (x.swapaxes(1, 2) for x in (q * H**-0.5, k, v))
        return jax.vmap(run)(*heads_first, kernels.SegmentIds(segments, segments)).swapaxes(1, 2)

    mesh = traced()
    if mesh is None:
        return on_one_device(q, k, v, mask.segments)
    cut = "tensor" if k.shape[2] % mesh.shape["tensor"] == 0 else None
    heads, rows = PartitionSpec(BATCH_AXES, None, cut), PartitionSpec(BATCH_AXES)
    run = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )
    return run(q, k, v, mask.segments)


def _is_fused(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN has a kernel: half precision, heads of a multiple of 8 up to 128, an even number of tokens."""
    half = q.dtype in (jnp.bfloat16, jnp.float16) and k.dtype == q.dtype
    even = q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    return on_nvidia() and half and even and q.shape[3] % 8 == 0 and q.shape[3] <= 128

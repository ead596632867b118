"""Device functions that paged attention kernels share: finding a tile in the cache, and attending to it.

Caches are [num_blocks, num_kv_heads, block_size, head_dim]. A *row* is an index into such a cache
seen as [num_blocks * num_kv_heads * block_size, head_dim]; rows are int64, as a cache may hold more than
2**31 elements.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2_E = math.log2(math.e)


def softcap_scale(scale: float, softcap: float | None) -> tuple[float, float]:
    """Return the scale_log2 and softcap_log2 of `attend`."""
    if softcap is None:
        return scale * LOG2_E, 0.0
    return 2.0 * scale / softcap * LOG2_E, softcap * LOG2_E


@triton.jit
def tile_rows(
    table_ptr,
    start,
    end,
    kv_head,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Cache rows of the tokens [start, start + BLOCK_N), valid below `end`; BLOCK_N divides start."""
    tokens = start + tl.arange(0, BLOCK_N)
    if BLOCK_SIZE % BLOCK_N == 0:
        block = tl.load(table_ptr + start // BLOCK_SIZE).to(tl.int64)
    else:
        block = tl.load(table_ptr + tokens // BLOCK_SIZE, mask=tokens < end, other=0).to(tl.int64)
    return (block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + tokens % BLOCK_SIZE


@triton.jit
def load_tile(
    cache_ptr, rows, in_context, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr
):
    """Load [BLOCK_N, BLOCK_D] keys or values; outside the context zero is read, whatever is there."""
    columns = tl.arange(0, BLOCK_D)
    pointers = cache_ptr + rows[:, None] * HEAD_DIM + columns[None, :]
    if MASKED or BLOCK_D != HEAD_DIM:
        return tl.load(pointers, mask=in_context[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)
    return tl.load(pointers)


@triton.jit
def attend(
    q,
    k,
    v,
    visible,
    total,
    top,
    weight,
    scale_log2,
    softcap_log2,
    MASKED: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
):
    """One step of the online softmax.

    q: [BLOCK_M, BLOCK_D]; k, v: [BLOCK_N, BLOCK_D], of the type of q or of eight bits;
    visible: [BLOCK_M, BLOCK_N], used if MASKED.
    The state is total: sum of exp2(score - top) * v; top: largest score; weight: sum of exp2(score - top).
    Each row must see a token in its first step, unless top begins above -inf: else the result is NaN.
    If SOFTCAPPED, scale_log2 is that of `softcap_scale`.
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if SOFTCAPPED:
        # tanh(x) = 1 - 2 / (exp(2x) + 1), which is 1 long before exp2 overflows.
        scores = softcap_log2 * (1.0 - 2.0 / (tl.exp2(tl.minimum(scores, 100.0)) + 1.0))
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shares = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    weight = weight * shrink + tl.sum(shares, axis=1)
    total = tl.dot(shares.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
    return total, new_top, weight

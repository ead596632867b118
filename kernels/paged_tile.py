"""Device functions that paged attention kernels share: finding a tile in the cache, and attending to it.

Caches are [num_blocks, num_kv_heads, block_size, head_dim]. A *row* is an index into such a cache
seen as [num_blocks * num_kv_heads * block_size, head_dim]; rows are int64, as a cache may hold more than
2**31 elements.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def attend(q, k, v, visible, total, top, weight, scale_log2, MASKED: tl.constexpr):
    """One step of the online softmax.

    q: [BLOCK_M, BLOCK_D]; k, v: [BLOCK_N, BLOCK_D]; visible: [BLOCK_M, BLOCK_N], used if MASKED.
    The state is total: sum of exp2(score - top) * v; top: largest score; weight: sum of exp2(score - top).
    Each row must see a token in its first step, else top stays -inf and the result is NaN.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shares = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    weight = weight * shrink + tl.sum(shares, axis=1)
    total = tl.dot(shares.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
    return total, new_top, weight

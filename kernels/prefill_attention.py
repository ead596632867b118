"""Paged causal attention of queries of any length, each at the end of its sequence's context.

    out = softmax(scale * q · kᵀ + causal) · v,  where query i of n sees context_len - n + i + 1 tokens

q, out: [num_tokens, num_heads, head_dim], the sequences' queries one after another, bounded by query_start
int32 [num_seqs + 1]; caches: [num_blocks, num_kv_heads, block_size, head_dim]; context_lens: [num_seqs]
int32; block_tables: [num_seqs, max_blocks] int32. The rows of a program are query tokens times the
query heads that share a key/value head, so keys and values are read once for all of these heads. Where there
are too few of these to fill the device, a context is split among programs, of which the last to end merges
their parts. `attention_variant.py` says what a variant adds.
4 * num_heads * head_dim * query * (context - query / 2) FLOP a sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from kernels.arrival import MAX_NUM_GROUPS, arrival_counters, is_last
from kernels.attention_parts import allocate_parts, merge_parts
from kernels.launch import (
    PREFILL_MIN_SPLIT_TOKENS,
    architecture,
    is_long_prefill,
    num_multiprocessors,
    prefill_launch,
    prefill_splits,
)
from kernels.paged_tile import attend, load_tile, softcap_scale, tile_rows

if TYPE_CHECKING:
    import torch

    from kernels.attention_variant import AttentionVariant


_SEQS_AT_ONCE = tl.constexpr(64)
"""How many sequences a program looks at when it searches for its own."""
_MIN_SPLIT_TOKENS = tl.constexpr(PREFILL_MIN_SPLIT_TOKENS)
_MERGED_ROWS = tl.constexpr(16)


@triton.jit
def find_tile(query_start_ptr, num_seqs, tile, BLOCK_Q: tl.constexpr, IS_PACKED: tl.constexpr):
    """Return a program's sequence, which of its tiles of queries it is to compute, and which split of them.

    The grid is (tiles of all sequences, splits) if IS_PACKED, else (tiles of the longest query, sequences).
    Packed, sequence i's first tile is (query_start[i] - query_start[0]) // BLOCK_Q + i, so that no tile is in
    two sequences, and some have no queries.
    """
    seq = tl.program_id(1)
    split = 0
    if IS_PACKED:
        split = tl.program_id(1)
        base = tl.load(query_start_ptr)
        num_begun = 0
        for first in range(0, num_seqs, _SEQS_AT_ONCE):
            seqs = first + tl.arange(0, _SEQS_AT_ONCE)
            starts = tl.load(query_start_ptr + seqs, mask=seqs < num_seqs, other=0) - base
            num_begun += tl.sum(((seqs < num_seqs) & (starts // BLOCK_Q + seqs <= tile)).to(tl.int32))
        seq = num_begun - 1
        tile -= (tl.load(query_start_ptr + seq) - base) // BLOCK_Q + seq
    return seq, tile, split


@triton.jit
def share_of_context(
    first_position,
    end,
    split,
    splits,
    BLOCK_N: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Return the bounds of what a program sees of a tile's context, which ends at `end`, and of how many."""
    start = 0
    stop = end
    num_parts = 1
    if IS_SPLIT:
        split_len = tl.maximum(tl.cdiv(tl.cdiv(end, BLOCK_N), splits) * BLOCK_N, _MIN_SPLIT_TOKENS)
        num_parts = tl.cdiv(end, split_len)
        start = split * split_len
        stop = tl.minimum(start + split_len, end)
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
    return start, stop, num_parts


@triton.jit(
    do_not_specialize=["num_seqs", "splits"],
    do_not_specialize_on_alignment=["query_start_ptr", "context_lens_ptr", "block_tables_ptr"],
)
def prefill_attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    query_start_ptr,
    context_lens_ptr,
    block_tables_ptr,
    out_ptr,
    parts_ptr,
    log_weights_ptr,
    counters_ptr,
    sinks_ptr,
    q_stride,
    table_stride,
    scale_log2,
    softcap_log2,
    num_seqs,
    splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_PACKED: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One program for each tile of queries and key/value head; a sequence's longest tiles start first.

    The grid is that of `find_tile`, then heads. WINDOW is 0 where all tokens are seen, as they must be if
    IS_SPLIT. Then the grid is packed, parts, log_weights and counters are those of `attention_parts.py` and
    `arrival.py`, and the first row is the sequences' first token.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    tile_id = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(2)
    seq, query_tile, split = find_tile(query_start_ptr, num_seqs, tile_id, BLOCK_Q, IS_PACKED)
    seq = seq.to(tl.int64)
    query_start = tl.load(query_start_ptr + seq)
    query_len = tl.load(query_start_ptr + seq + 1) - query_start
    first_query = query_tile * BLOCK_Q
    context_len = tl.load(context_lens_ptr + seq)
    first_position = context_len - query_len + first_query
    end = tl.minimum(first_position + BLOCK_Q, context_len)
    start, stop, num_parts = share_of_context(first_position, end, split, splits, BLOCK_N, IS_SPLIT, WINDOW)
    if first_query >= query_len or split >= num_parts:
        return

    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    queries = first_query + rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    tokens = (query_start + queries).to(tl.int64)
    in_range = (rows < BLOCK_Q * GROUP) & (queries < query_len)
    mask = in_range[:, None] & (columns < HEAD_DIM)[None, :]
    offsets = heads[:, None] * HEAD_DIM + columns[None, :]
    q = tl.load(q_ptr + tokens[:, None] * q_stride + offsets, mask=mask, other=0.0)

    positions = context_len - query_len + queries
    table_ptr = block_tables_ptr + seq * table_stride
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    top = tl.full((BLOCK_M,), -1e30, dtype=tl.float32)  # a row may see nothing of its first tile, or of all
    weight = tl.zeros((BLOCK_M,), dtype=tl.float32)
    if SINKS:  # the first split counts it
        in_group = rows < BLOCK_Q * GROUP
        sinks = tl.load(sinks_ptr + heads, mask=in_group, other=0.0).to(tl.float32) * 1.4426950408889634
        top = tl.where(split == 0, sinks, top)
        weight = tl.where(split == 0, 1.0, weight)

    # Tiles that all rows see whole need no mask; then come those that the diagonal crosses.
    masked_start = start
    if WINDOW == 0:
        masked_start = tl.maximum((first_position + 1) // BLOCK_N * BLOCK_N, start)
        for tile in range(start, tl.minimum(masked_start, stop), BLOCK_N):
            in_context = tile + tl.arange(0, BLOCK_N) < stop
            cache_rows = tile_rows(table_ptr, tile, stop, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
            k = load_tile(k_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, False)
            v = load_tile(v_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, False)
            total, top, weight = attend(
                q, k, v, in_context[None, :], total, top, weight, scale_log2, softcap_log2, False, SOFTCAPPED
            )
    for tile in range(masked_start, stop, BLOCK_N):
        seen = tile + tl.arange(0, BLOCK_N)
        in_context = seen < stop
        cache_rows = tile_rows(table_ptr, tile, stop, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
        k = load_tile(k_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        v = load_tile(v_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        visible = (seen[None, :] <= positions[:, None]) & in_context[None, :]
        if WINDOW > 0:
            visible = visible & (seen[None, :] > positions[:, None] - WINDOW)
        total, top, weight = attend(
            q, k, v, visible, total, top, weight, scale_log2, softcap_log2, True, SOFTCAPPED
        )

    has_seen = weight > 0.0
    weight = tl.where(has_seen, weight, 1.0)
    result = total / weight[:, None]
    out_offsets = tokens[:, None] * (NUM_KV_HEADS * GROUP * HEAD_DIM) + offsets
    tl.store(out_ptr + out_offsets, result.to(out_ptr.dtype.element_ty), mask=mask & (num_parts == 1))
    if IS_SPLIT and num_parts > 1:
        first_token = tl.load(query_start_ptr)
        part = ((tokens - first_token) * (NUM_KV_HEADS * GROUP) + heads) * splits + split
        tl.store(parts_ptr + part[:, None] * HEAD_DIM + columns[None, :], result, mask=mask)
        log_weight = tl.where(has_seen, top + tl.log2(weight), float("-inf"))
        tl.store(log_weights_ptr + part, log_weight, mask=in_range)
        if is_last(counters_ptr + tile_id * NUM_KV_HEADS + kv_head, num_parts):
            for first_row in range(0, BLOCK_Q * GROUP, _MERGED_ROWS):
                merged = first_row + tl.arange(0, _MERGED_ROWS)
                merged_queries = first_query + merged // GROUP
                merged_heads = kv_head * GROUP + merged % GROUP
                merge_parts(
                    parts_ptr,
                    log_weights_ptr,
                    out_ptr + first_token.to(tl.int64) * (NUM_KV_HEADS * GROUP * HEAD_DIM),
                    (query_start - first_token + merged_queries).to(tl.int64) * (NUM_KV_HEADS * GROUP)
                    + merged_heads,
                    (merged < BLOCK_Q * GROUP) & (merged_queries < query_len),
                    num_parts,
                    splits,
                    HEAD_DIM,
                    _MERGED_ROWS,
                    BLOCK_D,
                    2,
                )


def prefill_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    num_tokens: int,
    max_query_len: int,
    max_context_len: int,
    scale: float,
    variant: AttentionVariant,
    out: torch.Tensor,
) -> None:
    """Launch the kernel, writing the sequences' rows of `out`.

    `query_start` indexes q and out, whose tokens may be more than those of these sequences. `num_tokens`
    bounds their queries together, `max_query_len` and `max_context_len` those of each.
    """
    _, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    num_seqs = context_lens.shape[0]
    group = num_heads // num_kv_heads
    assert out.is_contiguous()
    if num_seqs == 0:
        return
    launch = prefill_launch(architecture(q.device), head_dim, q.element_size(), max_query_len * group)
    scale_log2, softcap_log2 = softcap_scale(scale, variant.softcap)
    block_m = max(launch.block_m, triton.next_power_of_2(group))
    block_q = block_m // group
    num_tiles = num_tokens // block_q + num_seqs
    # Long queries fill the device, and sparing their programs the search is worth more than empty ones cost.
    is_packed = not is_long_prefill(max_query_len * group)
    splits = 1
    if is_packed and variant.window is None and num_tiles * num_kv_heads <= MAX_NUM_GROUPS:
        num_groups = triton.cdiv(num_tokens, block_q) * num_kv_heads
        splits = prefill_splits(num_multiprocessors(q.device), num_groups, max_context_len)
    parts, log_weights, counters = None, None, None
    if splits > 1:
        parts, log_weights = allocate_parts(num_tokens * num_heads, splits, head_dim, q.device)
        counters = arrival_counters(q.device)
    grid = (num_tiles, splits) if is_packed else (triton.cdiv(max_query_len, block_q), num_seqs)
    prefill_attention_kernel[(*grid, num_kv_heads)](
        q,
        k_cache,
        v_cache,
        query_start,
        context_lens,
        block_tables,
        out,
        parts,
        log_weights,
        counters,
        variant.sinks,
        q.stride(0),
        block_tables.stride(0),
        scale_log2,
        softcap_log2,
        num_seqs,
        splits,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=launch.block_n,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        IS_PACKED=is_packed,
        IS_SPLIT=splits > 1,
        WINDOW=variant.window or 0,
        SOFTCAPPED=variant.softcap is not None,
        SINKS=variant.sinks is not None,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )

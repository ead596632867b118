"""Paged causal attention of queries of any length, each at the end of its sequence's context.

    out = softmax(scale * q · kᵀ + causal) · v,  where query i of n sees context_len - n + i + 1 tokens

q, out: [num_tokens, num_heads, head_dim], the sequences' queries one after another, bounded by query_start
int32 [num_seqs + 1]; caches: [num_blocks, num_kv_heads, block_size, head_dim]; context_lens: [num_seqs]
int32; block_tables: [num_seqs, max_blocks] int32. The rows of a program are query tokens times the
query heads that share a key/value head, so keys and values are read once for all of these heads. Where there
are too few of these to fill the device, contexts are split among programs, longer ones among more, and the
last program of a tile to end merges the tile's parts. `attention_variant.py` says what a variant adds.
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
    prefill_programs,
)
from kernels.paged_tile import attend, load_tile, softcap_scale, tile_rows

if TYPE_CHECKING:
    import torch

    from kernels.attention_variant import AttentionVariant


_SEQS_AT_ONCE = tl.constexpr(64)
"""How many sequences a program looks at when it searches for its own."""
MAX_SPLIT_SEQS = _SEQS_AT_ONCE.value
"""Up to how many sequences share programs by their contexts."""
_MIN_SPLIT_TOKENS = tl.constexpr(PREFILL_MIN_SPLIT_TOKENS)
_MERGED_ROWS = tl.constexpr(16)
_MERGED_PARTS = tl.constexpr(2)


@triton.jit
def find_tile(query_start_ptr, num_seqs, tile, BLOCK_Q: tl.constexpr, IS_PACKED: tl.constexpr):
    """Return a program's sequence, and which of its tiles of queries it is to compute.

    The grid is (tiles of all sequences, 1) if IS_PACKED, else (tiles of the longest query, sequences).
    Packed, sequence i's first tile is (query_start[i] - query_start[0]) // BLOCK_Q + i, so that no tile is in
    two sequences, and some have no queries.
    """
    seq = tl.program_id(1)
    if IS_PACKED:
        base = tl.load(query_start_ptr)
        num_begun = 0
        for first in range(0, num_seqs, _SEQS_AT_ONCE):
            seqs = first + tl.arange(0, _SEQS_AT_ONCE)
            starts = tl.load(query_start_ptr + seqs, mask=seqs < num_seqs, other=0) - base
            num_begun += tl.sum(((seqs < num_seqs) & (starts // BLOCK_Q + seqs <= tile)).to(tl.int32))
        seq = num_begun - 1
        tile -= (tl.load(query_start_ptr + seq) - base) // BLOCK_Q + seq
    return seq, tile


@triton.jit
def find_share(query_start_ptr, context_lens_ptr, num_seqs, program, target, BLOCK_Q: tl.constexpr):
    """Return a program's sequence, its tile of queries, its share of the tile's context, and of how many.

    The share is as many as there are if nothing is left for the program. There are at most _SEQS_AT_ONCE
    sequences. If all their tiles are fewer than `target`, each gets as many programs as befit its context,
    together at most `target`; else one. Also returned is the tile's place: no other tile's is among the
    num_shares from there on. Programs of the same share of a sequence's tiles are neighbours, as they read
    the same keys and values.
    """
    seqs = tl.arange(0, _SEQS_AT_ONCE)
    is_seq = seqs < num_seqs
    starts = tl.load(query_start_ptr + seqs, mask=is_seq, other=0)
    stops = tl.load(query_start_ptr + seqs + 1, mask=is_seq, other=0)
    context_lens = tl.load(context_lens_ptr + seqs, mask=is_seq, other=0)
    tiles = tl.cdiv(stops - starts, BLOCK_Q)
    num_spare = target - tl.sum(tiles)
    num_tokens = tl.sum(tiles.to(tl.int64) * context_lens)
    share_len = tl.maximum(tl.cdiv(num_tokens, tl.maximum(num_spare, 1)), 1).to(tl.int32)
    shares = tl.minimum(tl.cdiv(context_lens, share_len), context_lens // _MIN_SPLIT_TOKENS)
    shares = tl.where(num_spare > 0, tl.maximum(shares, 1), 1)
    programs = tiles * shares
    ends = tl.cumsum(programs)
    seq = tl.sum((ends <= program).to(tl.int32))
    is_found = seqs == seq
    num_shares = tl.maximum(tl.sum(tl.where(is_found, shares, 0)), 1)
    num_tiles = tl.maximum(tl.sum(tl.where(is_found, tiles, 0)), 1)
    first_program = tl.sum(tl.where(is_found, ends - programs, 0))
    tile = (program - first_program) % num_tiles
    share = tl.where(seq < num_seqs, (program - first_program) // num_tiles, num_shares)
    return tl.minimum(seq, num_seqs - 1), tile, share, num_shares, first_program + tile * num_shares


@triton.jit
def find_work(
    query_start_ptr,
    context_lens_ptr,
    num_seqs,
    target,
    BLOCK_Q: tl.constexpr,
    IS_PACKED: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    """Return what `find_share` does; if not IS_SPLIT, a tile has one share, and the last ones start first."""
    if IS_SPLIT:
        return find_share(query_start_ptr, context_lens_ptr, num_seqs, tl.program_id(0), target, BLOCK_Q)
    else:  # noqa: RET505  Triton knows no code after a return
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        seq, query_tile = find_tile(query_start_ptr, num_seqs, tile, BLOCK_Q, IS_PACKED)
        return seq, query_tile, 0, 1, 0


@triton.jit
def share_of_context(
    first_position,
    end,
    share,
    num_shares,
    BLOCK_N: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Return the bounds of a share of a tile's context, which ends at `end`, and how many are not empty."""
    start = 0
    stop = end
    num_parts = 1
    if IS_SPLIT:
        share_len = (
            tl.maximum(tl.cdiv(tl.cdiv(end, BLOCK_N), num_shares), 1) * BLOCK_N
        )  # padding has no context
        start = share * share_len
        stop = tl.minimum(start + share_len, end)
        num_parts = tl.cdiv(end, share_len)
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
    return start, stop, num_parts


@triton.jit
def merge_tile(
    parts_ptr,
    log_weights_ptr,
    out_ptr,
    query_start,
    query_len,
    first_query,
    kv_head,
    num_parts,
    num_shares,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge the parts of a tile of queries and key/value head, whose rows begin at parts and log_weights."""
    for first_row in range(0, BLOCK_Q * GROUP, _MERGED_ROWS):
        rows = first_row + tl.arange(0, _MERGED_ROWS)
        queries = first_query + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        merge_parts(
            parts_ptr,
            log_weights_ptr,
            out_ptr,
            rows,
            (query_start + queries).to(tl.int64) * (NUM_KV_HEADS * GROUP) + heads,
            (rows < BLOCK_Q * GROUP) & (queries < query_len),
            num_parts,
            num_shares,
            HEAD_DIM,
            _MERGED_ROWS,
            BLOCK_D,
            _MERGED_PARTS,
        )


@triton.jit(
    do_not_specialize=["num_seqs", "target"],
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
    target,
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
    """One program for each tile of queries and key/value head.

    The grid is that of `find_tile`, then heads; a sequence's longest tiles start first. If IS_SPLIT, which
    asks for WINDOW 0 (all tokens are seen), it is (max(target, tiles of all sequences), 1, heads), and a tile
    has the programs that `find_share` says. Their parts are those of `attention_parts.py`, BLOCK_M rows for
    each program, and what is of one tile and head lies together. The tile's place has its counters of
    `arrival.py`.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(2)
    seq, query_tile, share, num_shares, place = find_work(
        query_start_ptr, context_lens_ptr, num_seqs, target, BLOCK_Q, IS_PACKED, IS_SPLIT
    )
    seq = seq.to(tl.int64)
    query_start = tl.load(query_start_ptr + seq)
    query_len = tl.load(query_start_ptr + seq + 1) - query_start
    first_query = query_tile * BLOCK_Q
    context_len = tl.load(context_lens_ptr + seq)
    first_position = context_len - query_len + first_query
    end = tl.minimum(first_position + BLOCK_Q, context_len)
    start, stop, num_parts = share_of_context(
        first_position, end, share, num_shares, BLOCK_N, IS_SPLIT, WINDOW
    )
    if first_query >= query_len or share >= num_parts:
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
    if SINKS:  # the first share counts it
        in_group = rows < BLOCK_Q * GROUP
        sinks = tl.load(sinks_ptr + heads, mask=in_group, other=0.0).to(tl.float32) * 1.4426950408889634
        top = tl.where(share == 0, sinks, top)
        weight = tl.where(share == 0, 1.0, weight)

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
        first_part = (place * NUM_KV_HEADS + kv_head * num_shares).to(tl.int64) * BLOCK_M
        parts_ptr += first_part * HEAD_DIM
        log_weights_ptr += first_part
        part = rows * num_shares + share
        tl.store(parts_ptr + part[:, None] * HEAD_DIM + columns[None, :], result, mask=mask)
        log_weight = tl.where(has_seen, top + tl.log2(weight), float("-inf"))
        tl.store(log_weights_ptr + part, log_weight, mask=in_range)
        if is_last(counters_ptr + place * NUM_KV_HEADS + kv_head, num_parts):
            merge_tile(
                parts_ptr,
                log_weights_ptr,
                out_ptr,
                query_start,
                query_len,
                first_query,
                kv_head,
                num_parts,
                num_shares,
                NUM_KV_HEADS,
                GROUP,
                HEAD_DIM,
                BLOCK_Q,
                BLOCK_D,
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
    # Long queries fill the device, and sparing their programs the search is worth more than empty ones cost.
    is_packed = not is_long_prefill(max_query_len * group)
    num_tiles = num_tokens // block_q + num_seqs
    grid = (num_tiles, 1) if is_packed else (triton.cdiv(max_query_len, block_q), num_seqs)
    target = prefill_programs(num_multiprocessors(q.device), num_kv_heads)
    num_programs = max(num_tiles, target)
    is_split = (
        is_packed
        and variant.window is None
        and num_seqs <= MAX_SPLIT_SEQS
        and 2 * triton.cdiv(num_tokens, block_q) <= target
        and max_context_len >= 2 * PREFILL_MIN_SPLIT_TOKENS
        and num_programs * num_kv_heads <= MAX_NUM_GROUPS
    )
    parts, log_weights, counters = None, None, None
    if is_split:
        grid = (num_programs, 1)
        parts, log_weights = allocate_parts(num_programs * num_kv_heads, block_m, head_dim, q.device)
        counters = arrival_counters(q.device)
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
        target,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=launch.block_n,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        IS_PACKED=is_packed,
        IS_SPLIT=is_split,
        WINDOW=variant.window or 0,
        SOFTCAPPED=variant.softcap is not None,
        SINKS=variant.sinks is not None,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )

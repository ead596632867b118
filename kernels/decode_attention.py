"""Paged attention of single-token queries: flash-decoding.

    out = softmax(scale * q · kᵀ) · v  over each sequence's context, for one query token a sequence

q, out: [num_seqs, num_heads, head_dim]; caches: [num_blocks, num_kv_heads, block_size, head_dim];
context_lens: [num_seqs] int32; block_tables: [num_seqs, max_blocks] int32. The query heads that share a
key/value head form the rows of one matrix product, padded to 16. `attention_variant.py` says what a variant
adds. Where there are too few (sequence, head)
pairs to fill the device, a context is split among programs, of which the last to end merges their parts.
Reads 2 * context * num_kv_heads * head_dim elements a sequence, each once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from kernels.arrival import arrival_counters, is_last
from kernels.attention_parts import allocate_parts, merge_parts
from kernels.launch import architecture, decode_launch, decode_programs, decode_splits, num_multiprocessors
from kernels.paged_tile import attend, load_tile, softcap_scale, tile_rows

if TYPE_CHECKING:
    import torch

    from kernels.attention_variant import AttentionVariant


_MERGED_AT_ONCE = 32
"""Rows times parts that the last program holds."""


@triton.jit(do_not_specialize=["splits"])
def decode_attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
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
    splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_P: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One program for each (key/value head, sequence, split). WINDOW is 0 where all tokens are seen.

    If IS_SPLIT, parts, log_weights and counters are those of `attention_parts.py` and `arrival.py`.
    """
    kv_head = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    heads = kv_head * GROUP + rows
    in_group = rows < GROUP

    context_len = tl.load(context_lens_ptr + seq)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(context_len - WINDOW, 0) // BLOCK_N * BLOCK_N
    num_tiles = tl.maximum(tl.cdiv(context_len - first, BLOCK_N), 1)
    split_len = tl.cdiv(num_tiles, splits) * BLOCK_N
    num_parts = tl.cdiv(num_tiles * BLOCK_N, split_len)
    if split >= num_parts:
        return
    start = first + split * split_len
    end = tl.minimum(start + split_len, context_len)

    mask = in_group[:, None] & (columns < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + seq * q_stride + heads[:, None] * HEAD_DIM + columns[None, :], mask=mask, other=0.0)
    table_ptr = block_tables_ptr + seq * table_stride
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    weight = tl.zeros((BLOCK_M,), dtype=tl.float32)
    if SINKS:  # the first split counts it
        sinks = tl.load(sinks_ptr + heads, mask=in_group, other=0.0).to(tl.float32) * 1.4426950408889634
        top = tl.where(split == 0, sinks, top)
        weight = tl.where(split == 0, 1.0, weight)
    for tile in range(start, end, BLOCK_N):
        tokens = tile + tl.arange(0, BLOCK_N)
        in_context = tokens < end
        visible = in_context
        if WINDOW > 0:
            visible = in_context & (tokens >= context_len - WINDOW)
        cache_rows = tile_rows(table_ptr, tile, end, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
        k = load_tile(k_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        v = load_tile(v_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        total, top, weight = attend(
            q, k, v, visible[None, :], total, top, weight, scale_log2, softcap_log2, True, SOFTCAPPED
        )

    weight = tl.where(weight == 0.0, 1.0, weight)  # an empty context yields zeros
    result = total / weight[:, None]
    first_row = (seq * NUM_KV_HEADS + kv_head) * GROUP
    out_offsets = (first_row + rows)[:, None] * HEAD_DIM + columns[None, :]
    tl.store(out_ptr + out_offsets, result.to(out_ptr.dtype.element_ty), mask=mask & (num_parts == 1))
    if IS_SPLIT and num_parts > 1:
        part = (first_row + rows) * splits + split
        tl.store(parts_ptr + part[:, None] * HEAD_DIM + columns[None, :], result, mask=mask)
        tl.store(log_weights_ptr + part, top + tl.log2(weight), mask=in_group)
        if is_last(counters_ptr + seq * NUM_KV_HEADS + kv_head, num_parts):
            merged_rows = tl.arange(0, BLOCK_R)
            merge_parts(
                parts_ptr,
                log_weights_ptr,
                out_ptr,
                first_row + merged_rows,
                first_row + merged_rows,
                merged_rows < GROUP,
                num_parts,
                splits,
                HEAD_DIM,
                BLOCK_R,
                BLOCK_D,
                BLOCK_P,
            )


def decode_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_context_len: int,
    scale: float,
    variant: AttentionVariant,
    out: torch.Tensor,
) -> None:
    """Launch the kernel, writing `out`; `max_context_len` bounds context_lens."""
    num_seqs, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    group = num_heads // num_kv_heads
    assert out.is_contiguous()
    if num_seqs == 0:
        return
    num_groups = num_seqs * num_kv_heads
    width = num_multiprocessors(q.device)
    is_deep = num_groups <= decode_programs(width)
    launch = decode_launch(architecture(q.device), head_dim, q.element_size(), group, is_deep=is_deep)
    max_seen = min(max_context_len, variant.window or max_context_len)
    splits = decode_splits(width, num_groups, max_seen)
    parts, log_weights, counters = None, None, None
    if splits > 1:
        parts, log_weights = allocate_parts(num_seqs * num_heads, splits, head_dim, q.device)
        counters = arrival_counters(q.device)
        assert num_groups <= len(counters)
    scale_log2, softcap_log2 = softcap_scale(scale, variant.softcap)
    block_r = triton.next_power_of_2(group)
    decode_attention_kernel[(num_kv_heads, num_seqs, splits)](
        q,
        k_cache,
        v_cache,
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
        splits,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_M=launch.block_m,
        BLOCK_N=launch.block_n,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_R=block_r,
        BLOCK_P=max(1, _MERGED_AT_ONCE // block_r),
        IS_SPLIT=splits > 1,
        WINDOW=variant.window or 0,
        SOFTCAPPED=variant.softcap is not None,
        SINKS=variant.sinks is not None,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )

"""Paged causal attention of queries of any length, each at the end of its sequence's context.

    out = softmax(scale * q · kᵀ + causal) · v,  where query i of n sees context_len - n + i + 1 tokens

q, out: [num_tokens, num_heads, head_dim], the sequences' queries one after another, bounded by query_start
int32 [num_seqs + 1]; caches: [num_blocks, num_kv_heads, block_size, head_dim]; context_lens: [num_seqs]
int32; block_tables: [num_seqs, max_blocks] int32. The rows of a program are query tokens times the
query heads that share a key/value head, so keys and values are read once for all of these heads.
`attention_variant.py` says what a variant adds.
4 * num_heads * head_dim * query * (context - query / 2) FLOP a sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from kernels.launch import architecture, prefill_launch
from kernels.paged_tile import attend, load_tile, softcap_scale, tile_rows

if TYPE_CHECKING:
    import torch

    from kernels.attention_variant import AttentionVariant


@triton.jit(do_not_specialize_on_alignment=["query_start_ptr", "context_lens_ptr", "block_tables_ptr"])
def prefill_attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    query_start_ptr,
    context_lens_ptr,
    block_tables_ptr,
    out_ptr,
    sinks_ptr,
    q_stride,
    table_stride,
    scale_log2,
    softcap_log2,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One program for each (tile of queries, sequence, key/value head); the longest tiles start first.

    WINDOW is 0 where all tokens are seen.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    seq = tl.program_id(1).to(tl.int64)
    kv_head = tl.program_id(2)
    query_start = tl.load(query_start_ptr + seq)
    query_len = tl.load(query_start_ptr + seq + 1) - query_start
    first_query = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    if first_query >= query_len:
        return

    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    queries = first_query + rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    tokens = (query_start + queries).to(tl.int64)
    mask = ((rows < BLOCK_Q * GROUP) & (queries < query_len))[:, None] & (columns < HEAD_DIM)[None, :]
    offsets = heads[:, None] * HEAD_DIM + columns[None, :]
    q = tl.load(q_ptr + tokens[:, None] * q_stride + offsets, mask=mask, other=0.0)

    context_len = tl.load(context_lens_ptr + seq)
    first_position = context_len - query_len + first_query
    positions = context_len - query_len + queries
    table_ptr = block_tables_ptr + seq * table_stride
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    weight = tl.zeros((BLOCK_M,), dtype=tl.float32)
    if WINDOW > 0:  # a row's window may begin after the first tile
        top = tl.full((BLOCK_M,), -1e30, dtype=tl.float32)
    if SINKS:
        in_group = rows < BLOCK_Q * GROUP
        top = tl.load(sinks_ptr + heads, mask=in_group, other=0.0).to(tl.float32) * 1.4426950408889634
        weight += 1.0

    # Tiles that all rows see whole need no mask; then come those that the diagonal crosses.
    end = tl.minimum(first_position + BLOCK_Q, context_len)
    if WINDOW > 0:
        diagonal = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
    else:
        diagonal = (first_position + 1) // BLOCK_N * BLOCK_N
        for tile in range(0, diagonal, BLOCK_N):
            in_context = tile + tl.arange(0, BLOCK_N) < end
            cache_rows = tile_rows(table_ptr, tile, end, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
            k = load_tile(k_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, False)
            v = load_tile(v_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, False)
            total, top, weight = attend(
                q, k, v, in_context[None, :], total, top, weight, scale_log2, softcap_log2, False, SOFTCAPPED
            )
    for tile in range(diagonal, end, BLOCK_N):
        seen = tile + tl.arange(0, BLOCK_N)
        in_context = seen < end
        cache_rows = tile_rows(table_ptr, tile, end, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
        k = load_tile(k_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        v = load_tile(v_cache_ptr, cache_rows, in_context, HEAD_DIM, BLOCK_D, True)
        visible = (seen[None, :] <= positions[:, None]) & in_context[None, :]
        if WINDOW > 0:
            visible = visible & (seen[None, :] > positions[:, None] - WINDOW)
        total, top, weight = attend(
            q, k, v, visible, total, top, weight, scale_log2, softcap_log2, True, SOFTCAPPED
        )

    if WINDOW > 0:  # rows beyond the last query see nothing
        weight = tl.where(weight == 0.0, 1.0, weight)
    result = (total / weight[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + tokens[:, None] * (NUM_KV_HEADS * GROUP * HEAD_DIM) + offsets, result, mask=mask)


def prefill_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_query_len: int,
    scale: float,
    variant: AttentionVariant,
    out: torch.Tensor,
) -> None:
    """Launch the kernel, writing the sequences' rows of `out`; `max_query_len` bounds their queries.

    `query_start` indexes q and out, whose tokens may be more than those of these sequences.
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
    prefill_attention_kernel[(triton.cdiv(max_query_len, block_m // group), num_seqs, num_kv_heads)](
        q,
        k_cache,
        v_cache,
        query_start,
        context_lens,
        block_tables,
        out,
        variant.sinks,
        q.stride(0),
        block_tables.stride(0),
        scale_log2,
        softcap_log2,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=launch.block_n,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        WINDOW=variant.window or 0,
        SOFTCAPPED=variant.softcap is not None,
        SINKS=variant.sinks is not None,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )

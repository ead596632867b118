"""Causal attention over the paged cache for a mixed batch: single-token queries first, then longer ones.

    out = softmax(scale * q · kᵀ + causal) · v,  where query i of n sees context_len - n + i + 1 tokens

q, out: [num_tokens, num_heads, head_dim]; k_cache, v_cache: [num_blocks, num_kv_heads, block_size,
head_dim], of q's type or float8_e4m3fn. Consecutive groups of num_heads / num_kv_heads query heads share a
key/value head. On the GPU, single-token queries go to `decode_attention` and the rest to
`prefill_attention`. On the CPU, contexts are gathered from the cache, then attended by torch's fused
attention: all decodes of similar context in one call, and each longer query in a call of its own.
`attention_variant.py` says what a variant adds; torch's fused attention has no more than windows, so the rest
is computed step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from kernels.attention_variant import PLAIN, AttentionVariant
from kernels.decode_attention import decode_attention_triton
from kernels.fp8_quantize import FP8
from kernels.native import few_rows
from kernels.prefill_attention import prefill_attention_triton

SMALL_CONTEXT = 256


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMetadata:
    """Where a step's queries and contexts are. Built once a step; its tensors do not change meanwhile."""

    query_start: torch.Tensor
    """[num_seqs + 1] int32: sequence i's query tokens are rows [query_start[i], query_start[i + 1]) of q."""
    context_lens: torch.Tensor
    """[num_seqs] int32: tokens in the cache after this step's are written, the query's included."""
    block_tables: torch.Tensor
    """[num_seqs, max_blocks] int32; entries past a sequence's context may hold anything."""
    query_lens: list[int]
    """Query tokens of each sequence, on the host; at least 1."""
    context_lens_list: list[int]
    """`context_lens` on the host."""
    num_decodes: int
    """How many sequences have one query token; they come first."""


class _Layout(NamedTuple):
    num_kv_heads: int
    block_size: int
    mask_dtype: torch.dtype
    window: int | None


@dataclass(frozen=True, slots=True)
class _Gather:
    """Sequences that one call of torch's attention serves."""

    queries: slice | torch.Tensor
    """Rows of q."""
    cache_rows: torch.Tensor
    """int64 [num_seqs * num_kv_heads * context], into the cache as [.., head_dim]. Padding reads the
    sequence's own first token, so that it is as finite as the sequence."""
    num_seqs: int
    mask: torch.Tensor | None
    """Added to the scores; float32 or wider, broadcasts to [num_seqs, num_heads, query, context]."""
    is_causal: bool


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    metadata: AttentionMetadata,
    scale: float,
    variant: AttentionVariant = PLAIN,
) -> torch.Tensor:
    """Compute in plain torch; the CPU path."""
    _, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    keys, values = k_cache.view(-1, head_dim), v_cache.view(-1, head_dim)

    def take(rows: torch.Tensor, cache_rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype != FP8:
            return rows.index_select(0, cache_rows)
        return rows.view(torch.uint8).index_select(0, cache_rows).view(FP8).to(q.dtype)

    mask_dtype = torch.promote_types(q.dtype, torch.float32)
    layout = _Layout(num_kv_heads, block_size, mask_dtype, variant.window)
    decodes, prefills = _gathers(metadata, layout)
    parts = []
    for gather in decodes:
        shape = (gather.num_seqs, num_kv_heads, -1, head_dim)
        result = _attend(
            q[gather.queries].reshape(shape),  # the heads of a group are the queries of one head
            take(keys, gather.cache_rows).view(shape),
            take(values, gather.cache_rows).view(shape),
            gather,
            scale,
            variant,
        )
        parts.append((gather.queries, result.reshape(-1, num_heads, head_dim)))
    for gather in prefills:
        shape = (1, num_kv_heads, -1, head_dim)
        result = _attend(
            q[gather.queries].transpose(0, 1).unsqueeze(0),
            take(keys, gather.cache_rows).view(shape),
            take(values, gather.cache_rows).view(shape),
            gather,
            scale,
            variant,
        )
        parts.append((gather.queries, result.squeeze(0).transpose(0, 1)))
    if len(parts) == 1:
        return parts[0][1]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for queries, result in parts:
        out[queries] = result
    return out


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gather: _Gather,
    scale: float,
    variant: AttentionVariant,
) -> torch.Tensor:
    """Attend with q [num_seqs, heads, query, head_dim]; k and v have as many heads or fewer."""
    is_grouped = q.shape[1] > k.shape[1]
    if variant.softcap is None and variant.sinks is None:
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=gather.mask,
            is_causal=gather.is_causal,
            scale=scale,
            enable_gqa=is_grouped,
        )
    if is_grouped:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(dtype) @ k.to(dtype).transpose(2, 3)) * scale
    if variant.softcap is not None:
        scores = variant.softcap * torch.tanh(scores / variant.softcap)
    if gather.is_causal:
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu_(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    elif gather.mask is not None:
        scores = scores + gather.mask
    if variant.sinks is not None:  # for decodes, the queries of a head are the heads of a group
        sinks = variant.sinks.to(dtype).view(1, q.shape[1], -1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    shares = scores.softmax(-1)[..., : k.shape[2]]
    return (shares @ v.to(dtype)).to(q.dtype)


@lru_cache(maxsize=4)  # layers of a step ask for the same, with and without a window
def _gathers(metadata: AttentionMetadata, layout: _Layout) -> tuple[list[_Gather], list[_Gather]]:
    """Plan the calls for decodes and for longer queries."""
    decodes = [_gather_decodes(metadata, seqs, layout) for seqs in _similar_decodes(metadata)]
    prefills = []
    start = metadata.num_decodes
    for seq in range(metadata.num_decodes, len(metadata.query_lens)):
        stop = start + metadata.query_lens[seq]
        prefills.append(_gather_prefill(metadata, seq, slice(start, stop), layout))
        start = stop
    return decodes, prefills


def _similar_decodes(metadata: AttentionMetadata) -> list[list[int]]:
    """Group the decodes so that padding at most doubles a context, except for small ones."""
    groups: dict[int, list[int]] = {}
    for seq, context_len in enumerate(metadata.context_lens_list[: metadata.num_decodes]):
        groups.setdefault((max(context_len, SMALL_CONTEXT) - 1).bit_length(), []).append(seq)
    return list(groups.values())


def _gather_decodes(metadata: AttentionMetadata, seqs: list[int], layout: _Layout) -> _Gather:
    device = metadata.block_tables.device
    is_run = seqs[-1] - seqs[0] + 1 == len(seqs)
    index = slice(seqs[0], seqs[-1] + 1) if is_run else torch.tensor(seqs, device=device)
    lens = [metadata.context_lens_list[seq] for seq in seqs]
    context_lens = metadata.context_lens[index].unsqueeze(1)
    num_seen = min(max(lens), layout.window or max(lens))
    positions = torch.arange(num_seen, device=device).expand(len(seqs), -1)
    if num_seen < max(lens):
        positions = positions + (context_lens - num_seen).clamp(min=0)
    mask = None
    if min(lens) < num_seen:
        is_padding = positions >= context_lens
        positions = positions.masked_fill(is_padding, 0)
        mask = torch.zeros(is_padding.shape, dtype=layout.mask_dtype, device=device)
        mask = mask.masked_fill_(is_padding, float("-inf"))[:, None, None]
    cache_rows = _cache_rows(metadata.block_tables[index], positions, layout)
    return _Gather(index, cache_rows, len(seqs), mask, is_causal=False)


def _gather_prefill(metadata: AttentionMetadata, seq: int, queries: slice, layout: _Layout) -> _Gather:
    block_table = metadata.block_tables[seq : seq + 1]
    query_len, context_len = metadata.query_lens[seq], metadata.context_lens_list[seq]
    window = layout.window or context_len
    first_query = context_len - query_len
    positions = torch.arange(max(first_query - window + 1, 0), context_len, device=block_table.device)
    cache_rows = _cache_rows(block_table, positions.unsqueeze(0), layout)
    if query_len == context_len <= window:
        return _Gather(queries, cache_rows, 1, None, is_causal=True)
    behind = torch.arange(first_query, context_len, device=block_table.device).unsqueeze(1) - positions
    mask = torch.zeros(behind.shape, dtype=layout.mask_dtype, device=block_table.device)
    mask.masked_fill_((behind < 0) | (behind >= window), float("-inf"))
    return _Gather(queries, cache_rows, 1, mask, is_causal=False)


def _cache_rows(block_tables: torch.Tensor, positions: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """Cache rows of [num_seqs, num_tokens] positions, ordered by sequence, head and token; flat int64."""
    num_kv_heads, block_size = layout.num_kv_heads, layout.block_size
    blocks = block_tables.gather(1, positions // block_size).long().unsqueeze(1)
    heads = torch.arange(num_kv_heads, device=positions.device).view(1, -1, 1)
    return ((blocks * num_kv_heads + heads) * block_size + (positions % block_size).unsqueeze(1)).flatten()


def paged_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    metadata: AttentionMetadata,
    scale: float,
    variant: AttentionVariant = PLAIN,
) -> torch.Tensor:
    """Launch the decode kernel for the leading sequences and the prefill kernel for the rest."""
    _, num_heads, head_dim = q.shape
    assert k_cache.shape == v_cache.shape
    assert k_cache.shape[3] == head_dim
    assert num_heads % k_cache.shape[1] == 0
    assert k_cache.is_contiguous()
    assert v_cache.is_contiguous()
    assert q.stride()[1:] == (head_dim, 1)
    assert metadata.block_tables.stride(1) == 1
    assert variant.sinks is None or variant.sinks.shape == (num_heads,)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_decodes = metadata.num_decodes
    decode_attention_triton(
        q[:num_decodes],
        k_cache,
        v_cache,
        metadata.context_lens[:num_decodes],
        metadata.block_tables[:num_decodes],
        max(metadata.context_lens_list[:num_decodes], default=0),
        scale,
        variant,
        out[:num_decodes],
    )
    prefill_attention_triton(
        q,
        k_cache,
        v_cache,
        metadata.query_start[num_decodes:],
        metadata.context_lens[num_decodes:],
        metadata.block_tables[num_decodes:],
        len(q) - num_decodes,
        max(metadata.query_lens[num_decodes:], default=0),
        max(metadata.context_lens_list[num_decodes:], default=0),
        scale,
        variant,
        out,
    )
    return out


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    metadata: AttentionMetadata,
    scale: float,
    variant: AttentionVariant = PLAIN,
) -> torch.Tensor:
    """Attend q[num_tokens, num_heads, head_dim] to its sequences' cached contexts; returns a new tensor.

    The step's keys and values must have been written to the cache before.
    """
    if q.is_cuda:
        return paged_attention_triton(q, k_cache, v_cache, metadata, scale, variant)
    is_decode = metadata.num_decodes == len(metadata.query_lens)
    is_plain = variant is PLAIN and k_cache.dtype == q.dtype
    if is_decode and is_plain and few_rows.takes(q) and q.stride(2) == 1:
        lens, tables = metadata.context_lens, metadata.block_tables
        return few_rows.decode_attention(
            q, k_cache, v_cache, lens, tables, max(metadata.context_lens_list), scale
        )
    return paged_attention_reference(q, k_cache, v_cache, metadata, scale, variant)

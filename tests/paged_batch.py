"""Random batches in a paged cache, with the attention that they should give."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention_variant import PLAIN, AttentionVariant
from kernels.paged_attention import AttentionMetadata


@dataclass(frozen=True)
class Shape:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int


@dataclass(frozen=True)
class PagedBatch:
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    metadata: AttentionMetadata
    scale: float
    expected: torch.Tensor
    """float64 [num_tokens, num_heads, head_dim] on the CPU."""


def make_paged_batch(
    shape: Shape,
    lens: list[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
    variant: AttentionVariant = PLAIN,
) -> PagedBatch:
    """Make a batch of (query length, context length), scattered over the cache.

    Whatever no sequence wrote is NaN: other blocks, tails of last blocks, and the block that unused
    entries of the block tables name. q is a slice of a wider tensor, as it comes from a merged projection.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    query_lens, context_lens = [query for query, _ in lens], [context for _, context in lens]
    num_blocks = [-(-context // shape.block_size) for context in context_lens]
    order = torch.randperm(sum(num_blocks) + 3, generator=generator, dtype=torch.int32)
    size = (len(order), shape.num_kv_heads, shape.block_size, shape.head_dim)
    k_cache, v_cache = torch.full(size, torch.nan, dtype=dtype), torch.full(size, torch.nan, dtype=dtype)
    block_tables = torch.full((len(lens), max(num_blocks, default=0) + 1), int(order[-1]), dtype=torch.int32)
    scale = shape.head_dim**-0.5

    width = shape.num_heads + 2 * shape.num_kv_heads
    q = draw(sum(query_lens), width * shape.head_dim)[:, : shape.num_heads * shape.head_dim]
    q = q.view(-1, shape.num_heads, shape.head_dim)
    expected = []
    tables = order[: sum(num_blocks)].split_with_sizes(num_blocks)
    for seq, (query, context, table) in enumerate(
        zip(q.split_with_sizes(query_lens), context_lens, tables, strict=True)
    ):
        block_tables[seq, : len(table)] = table
        k = draw(context, shape.num_kv_heads, shape.head_dim)
        v = draw(context, shape.num_kv_heads, shape.head_dim)
        positions = torch.arange(context)
        blocks, offsets = table[positions // shape.block_size], positions % shape.block_size
        k_cache[blocks, :, offsets] = k
        v_cache[blocks, :, offsets] = v
        expected.append(dense_attention(query, k, v, scale, variant))
    starts = torch.tensor([0, *query_lens], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    metadata = AttentionMetadata(
        query_start=starts.to(device),
        context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
        block_tables=block_tables.to(device),
        query_lens=query_lens,
        context_lens_list=context_lens,
        num_decodes=query_lens.count(1),
    )
    truth = torch.cat(expected) if expected else torch.empty(q.shape, dtype=torch.float64)
    wide = q.new_empty((len(q), width, shape.head_dim)).to(device)
    wide[:, : shape.num_heads] = q.to(device)
    return PagedBatch(
        wide[:, : shape.num_heads], k_cache.to(device), v_cache.to(device), metadata, scale, truth
    )


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    variant: AttentionVariant = PLAIN,
) -> torch.Tensor:
    """Causal attention in float64 of q [query, heads, d] at the end of k, v [context, kv_heads, d]."""
    num_heads = q.shape[1]
    group = num_heads // k.shape[1]
    keys, values = k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,chd->hqc", q.double(), keys) * scale
    if variant.softcap is not None:
        scores = variant.softcap * torch.tanh(scores / variant.softcap)
    positions = torch.arange(len(k) - len(q), len(k))[:, None]
    seen = torch.arange(len(k)) <= positions
    if variant.window is not None:
        seen &= torch.arange(len(k)) > positions - variant.window
    scores = scores.masked_fill(~seen, -torch.inf)
    if variant.sinks is not None:
        sinks = variant.sinks.double().cpu().view(num_heads, 1, 1).expand(-1, len(q), 1)
        scores = torch.cat((scores, sinks), -1)
    return torch.einsum("hqc,chd->qhd", scores.softmax(-1)[..., : len(k)], values)

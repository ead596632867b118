"""Store new keys and values in the paged cache.

k, v: [num_tokens, num_kv_heads, head_dim]; k_cache, v_cache: [num_blocks, num_kv_heads, block_size,
head_dim]; slots: [num_tokens] int64, slot = block * block_size + offset, where -1 skips the token.
Slots are distinct. Caches are of the same type as k and v, or float8_e4m3fn: then what is larger than 448 is
stored as 448. Moves 2 * (numel(k) + numel(v)) elements.

A head's tokens of one block lie together in the cache, so that attention reads them in one burst.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl

from kernels.fp8_quantize import FP8, LARGEST

NUM_WARPS = 4


def kv_write_reference(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    """Compute in plain torch; the CPU path."""
    num_kv_heads, block_size, head_dim = k_cache.shape[1:]
    kept, cache_rows = _cache_rows(slots, num_kv_heads, block_size)
    for x, cache in ((k, k_cache), (v, v_cache)):
        rows = x if kept is None else x[kept]
        rows = rows.reshape(-1, head_dim)
        if cache.dtype == FP8:  # torch copies eight-bit numbers as bytes alone
            rows, cache = rows.clamp(-LARGEST, LARGEST).to(FP8).view(torch.uint8), cache.view(torch.uint8)
        cache.view(-1, head_dim).index_copy_(0, cache_rows, rows)


@lru_cache(maxsize=1)  # all layers of a step ask for the same
def _cache_rows(
    slots: torch.Tensor, num_kv_heads: int, block_size: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return the tokens that are kept (None: all), and the cache row of each of their heads."""
    kept = None
    if len(slots) and slots.min() < 0:
        kept = (slots >= 0).nonzero()[:, 0]
        slots = slots[kept]
    blocks, offsets = slots // block_size, slots % block_size
    heads = torch.arange(num_kv_heads, device=slots.device)
    rows = (blocks.unsqueeze(1) * num_kv_heads + heads) * block_size + offsets.unsqueeze(1)
    return kept, rows.flatten()


@triton.jit
def kv_write_kernel(
    k_ptr,
    v_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    k_stride,
    v_stride,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a token; it stores all heads of k and v."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    if slot < 0:
        return
    heads = tl.arange(0, BLOCK_HEADS)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    mask = (heads < NUM_KV_HEADS) & (columns < HEAD_DIM)
    source = heads * HEAD_DIM + columns
    block = (slot // BLOCK_SIZE).to(tl.int64)
    target = block * (NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM) + (slot % BLOCK_SIZE) * HEAD_DIM
    targets = target + heads * (BLOCK_SIZE * HEAD_DIM) + columns
    k = tl.load(k_ptr + token * k_stride + source, mask=mask)
    v = tl.load(v_ptr + token * v_stride + source, mask=mask)
    tl.store(k_cache_ptr + targets, k.to(k_cache_ptr.dtype.element_ty), mask=mask)
    tl.store(v_cache_ptr + targets, v.to(v_cache_ptr.dtype.element_ty), mask=mask)


def kv_write_triton(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    """Launch the kernel. Tokens may have any stride; a token's heads are adjacent."""
    num_tokens, num_kv_heads, head_dim = k.shape
    block_size = k_cache.shape[2]
    assert v.shape == k.shape
    assert v_cache.shape == k_cache.shape == (k_cache.shape[0], num_kv_heads, block_size, head_dim)
    assert k_cache.is_contiguous()
    assert v_cache.is_contiguous()
    assert k.stride(2) == v.stride(2) == 1
    assert num_kv_heads == 1 or k.stride(1) == v.stride(1) == head_dim
    assert slots.shape == (num_tokens,)
    assert slots.dtype == torch.int64
    if num_tokens == 0:
        return
    kv_write_kernel[(num_tokens,)](
        k,
        v,
        k_cache,
        v_cache,
        slots,
        k.stride(0),
        v.stride(0),
        NUM_KV_HEADS=num_kv_heads,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        BLOCK_HEADS=triton.next_power_of_2(num_kv_heads),
        BLOCK_D=triton.next_power_of_2(head_dim),
        num_warps=NUM_WARPS,
    )


def kv_write(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    """Store each token's keys and values at its slot."""
    if k.is_cuda:
        kv_write_triton(k, v, k_cache, v_cache, slots)
    else:
        kv_write_reference(k, v, k_cache, v_cache, slots)

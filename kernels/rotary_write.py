"""Normalise and turn queries and keys, and store keys and values in the paged cache, in one pass.

    q = rotary(norm(q)) in place;  k_cache[slot] = rotary(norm(k));  v_cache[slot] = v

where norm is RMSNorm over a head (`rms_norm.py`), left out where there are no weights, and rotary is that of
`rotary.py`. q: [num_tokens, num_heads, head_dim]; k, v: [num_tokens, num_kv_heads, head_dim]; positions,
slots, caches and cos_sin as in `rotary.py` and `kv_write.py`. k is left undefined.
Moves 2 * (numel(q) + numel(k) + numel(v)) elements, where the operations apart move up to twice that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels.kv_write import kv_write_reference
from kernels.native import few_rows
from kernels.rms_norm import rms_norm_reference
from kernels.rotary import rotary_reference

NUM_WARPS = 4


class HeadNorms(NamedTuple):
    """RMSNorm over each head of queries and keys."""

    q_weight: torch.Tensor
    """[head_dim]."""
    k_weight: torch.Tensor
    """[head_dim]."""
    epsilon: float


def rotary_write_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    norms: HeadNorms | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Compute in plain torch; the CPU path."""
    if norms is not None:
        q = rms_norm_reference(q, norms.q_weight, norms.epsilon)
        k = rms_norm_reference(k, norms.k_weight, norms.epsilon)
    rotary_reference(q, k, positions, cos_sin)
    kv_write_reference(k, v, k_cache, v_cache, slots)
    return q


@triton.jit
def rotary_write_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    positions_ptr,
    cos_sin_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    q_stride,
    k_stride,
    v_stride,
    epsilon,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_KV_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    NORMS: tl.constexpr,
):
    """Two programs a token: one for its queries, one for its keys and values."""
    HEAD_DIM: tl.constexpr = 2 * HALF
    token = tl.program_id(0).to(tl.int64)
    halves = tl.arange(0, BLOCK_HALF)
    in_half = halves < HALF
    cos_sin_ptr += tl.load(positions_ptr + token) * HEAD_DIM
    cos = tl.load(cos_sin_ptr + halves, mask=in_half, other=0.0)[None, :]
    sin = tl.load(cos_sin_ptr + HALF + halves, mask=in_half, other=0.0)[None, :]
    if tl.program_id(1) == 0:
        heads = tl.arange(0, BLOCK_HEADS)[:, None]
        pointers = q_ptr + token * q_stride + heads * HEAD_DIM + halves[None, :]
        mask = (heads < NUM_HEADS) & in_half[None, :]
        y1, y2 = _turn(pointers, q_weight_ptr, cos, sin, mask, epsilon, HALF, BLOCK_HALF, NORMS)
        tl.store(pointers, y1.to(q_ptr.dtype.element_ty), mask=mask)
        tl.store(pointers + HALF, y2.to(q_ptr.dtype.element_ty), mask=mask)
    else:
        slot = tl.load(slots_ptr + token)
        if slot >= 0:
            kv_heads = tl.arange(0, BLOCK_KV_HEADS)[:, None]
            source = kv_heads * HEAD_DIM + halves[None, :]
            kv_mask = (kv_heads < NUM_KV_HEADS) & in_half[None, :]
            k_pointers = k_ptr + token * k_stride + source
            v_pointers = v_ptr + token * v_stride + source
            k1, k2 = _turn(k_pointers, k_weight_ptr, cos, sin, kv_mask, epsilon, HALF, BLOCK_HALF, NORMS)
            v1 = tl.load(v_pointers, mask=kv_mask, other=0.0)
            v2 = tl.load(v_pointers + HALF, mask=kv_mask, other=0.0)
            block = (slot // BLOCK_SIZE).to(tl.int64)
            first = (block * NUM_KV_HEADS * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM
            target = first + kv_heads * (BLOCK_SIZE * HEAD_DIM) + halves[None, :]
            tl.store(k_cache_ptr + target, k1.to(k_cache_ptr.dtype.element_ty), mask=kv_mask)
            tl.store(k_cache_ptr + target + HALF, k2.to(k_cache_ptr.dtype.element_ty), mask=kv_mask)
            tl.store(v_cache_ptr + target, v1.to(v_cache_ptr.dtype.element_ty), mask=kv_mask)
            tl.store(v_cache_ptr + target + HALF, v2.to(v_cache_ptr.dtype.element_ty), mask=kv_mask)


@triton.jit
def _turn(
    pointers,
    weight_ptr,
    cos,
    sin,
    mask,
    epsilon,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    NORMS: tl.constexpr,
):
    x1 = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(pointers + HALF, mask=mask, other=0.0).to(tl.float32)
    if NORMS:
        halves = tl.arange(0, BLOCK_HALF)
        in_half = halves < HALF
        weight1 = tl.load(weight_ptr + halves, mask=in_half, other=0.0).to(tl.float32)
        weight2 = tl.load(weight_ptr + HALF + halves, mask=in_half, other=0.0).to(tl.float32)
        squares = tl.sum(x1 * x1 + x2 * x2, axis=1)
        scale = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
        x1 = x1 * scale * weight1[None, :]
        x2 = x2 * scale * weight2[None, :]
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin


def rotary_write_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    norms: HeadNorms | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Launch the kernel. Tokens may have any stride; a token's heads are adjacent."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = k_cache.shape[1:3]
    assert k.shape == v.shape == (num_tokens, num_kv_heads, head_dim)
    assert k_cache.shape == v_cache.shape
    assert k_cache.shape[3] == head_dim
    assert k_cache.is_contiguous()
    assert v_cache.is_contiguous()
    assert q.stride()[1:] == k.stride()[1:] == v.stride()[1:] == (head_dim, 1)
    assert positions.shape == slots.shape == (num_tokens,)
    assert positions.dtype == slots.dtype == torch.int64
    assert head_dim % 2 == 0
    assert cos_sin.shape[1] == head_dim
    assert cos_sin.is_contiguous()
    if num_tokens == 0:
        return q
    rotary_write_kernel[(num_tokens, 2)](
        q,
        k,
        v,
        norms.q_weight if norms else None,
        norms.k_weight if norms else None,
        positions,
        cos_sin,
        k_cache,
        v_cache,
        slots,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        norms.epsilon if norms else 0.0,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        BLOCK_SIZE=block_size,
        HALF=head_dim // 2,
        BLOCK_HEADS=triton.next_power_of_2(num_heads),
        BLOCK_KV_HEADS=triton.next_power_of_2(num_kv_heads),
        BLOCK_HALF=triton.next_power_of_2(head_dim // 2),
        NORMS=norms is not None,
        num_warps=NUM_WARPS,
    )
    return q


def rotary_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    norms: HeadNorms | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Make a step's queries ready, and store its keys and values; returns the queries. Uses up q and k."""
    if q.is_cuda:
        return rotary_write_triton(q, k, v, norms, positions, cos_sin, k_cache, v_cache, slots)
    is_adjacent = q.stride() == (k.stride(0), q.shape[2], 1)
    if few_rows.takes(q) and is_adjacent and k_cache.dtype == q.dtype:
        few_rows.rotary_write(q, k, v, norms, positions, cos_sin, k_cache, v_cache, slots)
        return q
    return rotary_write_reference(q, k, v, norms, positions, cos_sin, k_cache, v_cache, slots)

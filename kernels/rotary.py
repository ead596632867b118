"""Rotary position embedding in place, neox style: element i turns with element i + head_dim / 2.

    (x1, x2) -> (x1 * cos - x2 * sin, x2 * cos + x1 * sin),  with x1, x2 the halves of a head

q: [num_tokens, num_heads, head_dim]; k: [num_tokens, num_kv_heads, head_dim]; positions: [num_tokens]
int64; cos_sin: [max_position, head_dim] float32, cosines in the first half of a row and sines in the
second. Moves 2 * (numel(q) + numel(k)) elements; the table's rows come from cache.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl

NUM_WARPS = 4


def rotary_reference(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> None:
    """Compute in plain torch; the CPU path."""
    cos, sin = _factors(positions, cos_sin)
    for x in (q, k):
        x.copy_((x.roll(x.shape[-1] // 2, dims=-1) * sin).addcmul_(x, cos))


@lru_cache(maxsize=1)  # all layers of a step ask for the same
def _factors(positions: torch.Tensor, cos_sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a head and its swapped halves are multiplied by, each [num_tokens, 1, head_dim]."""
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


@triton.jit
def rotary_kernel(
    q_ptr,
    k_ptr,
    positions_ptr,
    cos_sin_ptr,
    q_stride,
    k_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """One program a token; it turns all heads of q, then of k."""
    token = tl.program_id(0).to(tl.int64)
    halves = tl.arange(0, BLOCK_HALF)
    heads = tl.arange(0, BLOCK_HEADS)[:, None]
    in_half = halves < HALF
    cos_sin_ptr += tl.load(positions_ptr + token) * (2 * HALF)
    cos = tl.load(cos_sin_ptr + halves, mask=in_half, other=0.0)[None, :]
    sin = tl.load(cos_sin_ptr + HALF + halves, mask=in_half, other=0.0)[None, :]
    offsets = heads * (2 * HALF) + halves[None, :]
    _turn(q_ptr + token * q_stride + offsets, cos, sin, (heads < NUM_HEADS) & in_half[None, :], HALF)
    _turn(k_ptr + token * k_stride + offsets, cos, sin, (heads < NUM_KV_HEADS) & in_half[None, :], HALF)


@triton.jit
def _turn(pointers, cos, sin, mask, HALF: tl.constexpr):
    x1 = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(pointers + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(pointers, (x1 * cos - x2 * sin).to(pointers.dtype.element_ty), mask=mask)
    tl.store(pointers + HALF, (x2 * cos + x1 * sin).to(pointers.dtype.element_ty), mask=mask)


def rotary_triton(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
    """Launch the kernel. Tokens may have any stride; a token's heads are adjacent."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    assert k.shape == (num_tokens, num_kv_heads, head_dim)
    assert positions.shape == (num_tokens,)
    assert head_dim % 2 == 0
    assert cos_sin.shape[1] == head_dim
    assert cos_sin.is_contiguous()
    assert q.stride()[1:] == k.stride()[1:] == (head_dim, 1)
    if num_tokens == 0:
        return
    rotary_kernel[(num_tokens,)](
        q,
        k,
        positions,
        cos_sin,
        q.stride(0),
        k.stride(0),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        BLOCK_HEADS=triton.next_power_of_2(max(num_heads, num_kv_heads)),
        BLOCK_HALF=triton.next_power_of_2(head_dim // 2),
        num_warps=NUM_WARPS,
    )


def rotary(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
    """Turn q and k in place by their tokens' positions."""
    if q.is_cuda:
        rotary_triton(q, k, positions, cos_sin)
    else:
        rotary_reference(q, k, positions, cos_sin)

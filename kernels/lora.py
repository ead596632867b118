"""Low-rank changes of a matrix product, another for each token: y[t] += B[slot] @ (A[slot] @ x[t]).

x: [num_tokens, k]; y: [num_tokens, n], changed in place; slots: [num_tokens] int32, where 0 leaves y[t] as
it is and s takes the matrices at s - 1. The product may join up to three matrices, as for queries, keys and
values: a: [num_slots, num_parts * rank, k] has each part's rows, one part after another, and b:
[num_slots, n, rank] is multiplied with the inner values of the part that the output belongs to. The scale is
in b. All are of one type; inner values and sums are float32.
Moves the matrices of the slots in use, num_tokens * (k + 2 * n) elements, and the inner values.

A program takes a tile of tokens and goes through all slots: tokens of another slot are zeros there, which add
nothing. So the result of a token does not depend on its neighbours, and nothing waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kernels.launch import LoraLaunch, lora_launch

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_RANK = 16
MAX_PARTS = 3


@dataclass(frozen=True, slots=True)
class LoraTokens:
    """Which slot each token of a step takes."""

    slots: torch.Tensor
    """[num_tokens] int32."""
    groups: Sequence[tuple[int, torch.Tensor | None]] = ()
    """For the CPU: each slot in use, and the indices of its tokens; None where they are all."""

    @classmethod
    def of(cls, slots: torch.Tensor) -> LoraTokens:
        """Group the tokens, where that does not mean to wait for the device."""
        if slots.is_cuda:
            return cls(slots)
        used = [slot for slot in slots.unique().tolist() if slot]
        if len(used) == 1 and bool(slots.all()):
            return cls(slots, [(used[0], None)])
        return cls(slots, [(slot, (slots == slot).nonzero().flatten()) for slot in used])


def padded_rank(rank: int) -> int:
    """The rank that matrices must be padded to with zeros."""
    return max(MIN_RANK, 1 << (rank - 1).bit_length())


def lora_add_reference(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    parts: Sequence[int],
    tokens: LoraTokens,
) -> torch.Tensor:
    """Compute in plain torch; the CPU path."""
    rank = b.shape[-1]
    for slot, indices in tokens.groups:
        rows = x if indices is None else x[indices]
        inner = (rows @ a[slot - 1].t()).split(rank, dim=1)
        changes = [
            part @ matrix.t() for part, matrix in zip(inner, b[slot - 1].split(list(parts)), strict=True)
        ]
        change = torch.cat(changes, dim=1) if len(changes) > 1 else changes[0]
        if indices is None:
            y += change
        else:
            y.index_add_(0, indices, change)
    return y


@triton.jit(do_not_specialize=["num_tokens"])
def lora_shrink_kernel(
    x_ptr,
    a_ptr,
    token_slots_ptr,
    inner_ptr,
    num_tokens,
    x_stride,
    K,
    WIDTH: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program for each (tile of tokens, BLOCK_R of the WIDTH inner values, part of k)."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    rows = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    split = tl.program_id(2)
    in_range = tokens < num_tokens
    slots = tl.load(token_slots_ptr + tokens, mask=in_range, other=0)
    x_pointers = x_ptr + tokens.to(tl.int64)[:, None] * x_stride
    num_blocks = tl.cdiv(K, BLOCK_K)
    blocks_each = tl.cdiv(num_blocks, SPLITS)
    start = split * blocks_each * BLOCK_K
    end = tl.minimum(start + blocks_each * BLOCK_K, K)
    total = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for slot in range(1, NUM_SLOTS + 1):
        mine = slots == slot
        if tl.max(mine.to(tl.int32), axis=0) > 0:
            a_pointers = a_ptr + ((slot - 1) * WIDTH + rows).to(tl.int64)[None, :] * K
            for first in range(start, end, BLOCK_K):
                columns = first + tl.arange(0, BLOCK_K)
                inside = columns < end
                x = tl.load(x_pointers + columns[None, :], mask=mine[:, None] & inside[None, :], other=0.0)
                a = tl.load(a_pointers + columns[:, None], mask=inside[:, None], other=0.0)
                total = tl.dot(x, a, total, input_precision="ieee")
    target = inner_ptr + (split * num_tokens + tokens).to(tl.int64)[:, None] * WIDTH + rows[None, :]
    tl.store(target, total, mask=in_range[:, None])


@triton.jit(do_not_specialize=["num_tokens"])
def lora_expand_kernel(
    inner_ptr,
    b_ptr,
    token_slots_ptr,
    y_ptr,
    num_tokens,
    y_stride,
    SIZE_0,
    SIZE_1,
    SIZE_2,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One program for each (tile of tokens, BLOCK_N outputs of one part)."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    block = tl.program_id(1)
    blocks_0, blocks_1 = tl.cdiv(SIZE_0, BLOCK_N), tl.cdiv(SIZE_1, BLOCK_N)
    part, begin, size = 0, 0, SIZE_0
    if block >= blocks_0 + blocks_1:
        part, begin, size = 2, SIZE_0 + SIZE_1, SIZE_2
        block -= blocks_0 + blocks_1
    elif block >= blocks_0:
        part, begin, size = 1, SIZE_0, SIZE_1
        block -= blocks_0
    offsets = block * BLOCK_N + tl.arange(0, BLOCK_N)
    in_part = offsets < size
    columns = begin + offsets
    num_outputs = SIZE_0 + SIZE_1 + SIZE_2
    slots = tl.load(token_slots_ptr + tokens, mask=tokens < num_tokens, other=0)
    is_changed = (slots > 0) & (slots <= NUM_SLOTS)
    total = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.float32)
    for first in range(0, RANK, BLOCK_R):
        ranks = first + tl.arange(0, BLOCK_R)
        inner = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
        for split in range(SPLITS):
            source = inner_ptr + (split * num_tokens + tokens).to(tl.int64)[:, None] * WIDTH
            inner += tl.load(source + (part * RANK + ranks)[None, :], mask=is_changed[:, None], other=0.0)
        for slot in range(1, NUM_SLOTS + 1):
            mine = slots == slot
            if tl.max(mine.to(tl.int32), axis=0) > 0:
                pointers = b_ptr + ((slot - 1) * num_outputs + columns).to(tl.int64)[None, :] * RANK
                b = tl.load(pointers + ranks[:, None], mask=in_part[None, :], other=0.0)
                chosen = tl.where(mine[:, None], inner, 0.0).to(b.dtype)
                total = tl.dot(chosen, b, total, input_precision="ieee")
    target = y_ptr + tokens.to(tl.int64)[:, None] * y_stride + columns[None, :]
    mask = is_changed[:, None] & in_part[None, :]
    y = tl.load(target, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, (y + total).to(y_ptr.dtype.element_ty), mask=mask)


def lora_add_triton(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    parts: Sequence[int],
    slots: torch.Tensor,
    launch: LoraLaunch,
) -> torch.Tensor:
    """Launch both kernels. Rows of x and y may have any stride."""
    num_tokens, k = x.shape
    num_slots, num_outputs, rank = b.shape
    assert len(parts) <= MAX_PARTS
    assert sum(parts) == num_outputs
    assert y.shape == (num_tokens, num_outputs)
    assert a.shape == (num_slots, len(parts) * rank, k)
    assert rank == padded_rank(rank)
    assert x.stride(1) == y.stride(1) == 1
    assert a.is_contiguous()
    assert b.is_contiguous()
    if num_tokens == 0:
        return y
    width = a.shape[1]
    splits = max(1, min(launch.splits, k // launch.block_k))
    inner = torch.empty(splits, num_tokens, width, dtype=torch.float32, device=x.device)
    num_tiles = triton.cdiv(num_tokens, launch.block_t)
    lora_shrink_kernel[(num_tiles, width // MIN_RANK, splits)](
        x,
        a,
        slots,
        inner,
        num_tokens,
        x.stride(0),
        k,
        WIDTH=width,
        NUM_SLOTS=num_slots,
        SPLITS=splits,
        BLOCK_T=launch.block_t,
        BLOCK_R=MIN_RANK,
        BLOCK_K=launch.block_k,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    sizes = [*parts, 0, 0][:MAX_PARTS]
    num_blocks = sum(triton.cdiv(size, launch.block_n) for size in sizes)
    lora_expand_kernel[(num_tiles, num_blocks)](
        inner,
        b,
        slots,
        y,
        num_tokens,
        y.stride(0),
        *sizes,
        WIDTH=width,
        RANK=rank,
        NUM_SLOTS=num_slots,
        SPLITS=splits,
        BLOCK_T=launch.block_t,
        BLOCK_N=launch.block_n,
        BLOCK_R=min(rank, launch.max_block_r),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return y


def lora_add(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    parts: Sequence[int],
    tokens: LoraTokens,
) -> torch.Tensor:
    """Add to y[num_tokens, n] what the tokens' slots make of x[num_tokens, k], and return it."""
    if x.is_cuda:
        return lora_add_triton(x, y, a, b, parts, tokens.slots, lora_launch(x.element_size()))
    return lora_add_reference(x, y, a, b, parts, tokens)

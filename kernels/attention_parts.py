"""Attention over a context that is split among programs: each leaves a part, and the last to end merges them.

A part is the mean of its own tokens' values, with the base-2 logarithm of its softmax sum; the whole is the
mean of the parts, weighted by these sums. For each row, which is a (query token, query head), there are
parts: [num_rows, splits, head_dim] float32 and log_weights: [num_rows, splits] float32; those beyond what a
context is split into are never written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def merge_parts(
    parts_ptr,
    log_weights_ptr,
    out_ptr,
    rows,
    out_rows,
    in_range,
    num_parts,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Merge those rows [BLOCK_R] that are in_range, and write them to out_rows [BLOCK_R] of out.

    out: [.., head_dim]. BLOCK_P parts are read at once.
    """
    columns = tl.arange(0, BLOCK_D)
    in_row = in_range[:, None, None] & (columns < HEAD_DIM)[None, None, :]
    total = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    top = tl.full((BLOCK_R,), -1e30, dtype=tl.float32)
    weight = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for first in range(0, num_parts, BLOCK_P):
        parts = first + tl.arange(0, BLOCK_P)
        is_part = parts < num_parts
        indices = rows[:, None] * splits + parts[None, :]
        log_weights = tl.load(
            log_weights_ptr + indices, mask=in_range[:, None] & is_part[None, :], other=float("-inf")
        )
        pointers = parts_ptr + indices[:, :, None] * HEAD_DIM + columns[None, None, :]
        values = tl.load(pointers, mask=in_row & is_part[None, :, None], other=0.0)
        new_top = tl.maximum(top, tl.max(log_weights, axis=1))
        shares = tl.exp2(log_weights - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        weight = weight * shrink + tl.sum(shares, axis=1)
        total = total * shrink[:, None] + tl.sum(values * shares[:, :, None], axis=1)
        top = new_top
    merged = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
    mask = in_range[:, None] & (columns < HEAD_DIM)[None, :]
    pointers = out_ptr + out_rows[:, None] * HEAD_DIM + columns[None, :]
    tl.store(pointers, merged.to(out_ptr.dtype.element_ty), mask=mask)


def allocate_parts(
    num_rows: int, splits: int, head_dim: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the parts and the log_weights of num_rows rows."""
    parts = torch.empty((num_rows, splits, head_dim), dtype=torch.float32, device=device)
    return parts, torch.empty((num_rows, splits), dtype=torch.float32, device=device)

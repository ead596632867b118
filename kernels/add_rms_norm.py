"""Residual add and RMSNorm in one pass: r' = x + residual; y = r' / sqrt(mean(r'²) + epsilon) * weight.

x, residual, y, r': [num_tokens, d]; weight: [d]. The sum is rounded to the tensors' dtype before it is
normalised, so that y is a function of the r' that the next layer sees.
Moves 4 * numel(x) elements, where the two operations apart move 5.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.launch import row_launch
from kernels.native import few_rows
from kernels.rms_norm import rms_norm_reference


def add_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute in plain torch; the CPU path."""
    new_residual = x + residual
    return rms_norm_reference(new_residual, weight, epsilon), new_residual


@triton.jit
def add_rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    new_residual_ptr,
    x_stride,
    residual_stride,
    epsilon,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    mask = columns < D
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * residual_stride + columns, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    rounded = (x + residual).to(new_residual_ptr.dtype.element_ty)
    tl.store(new_residual_ptr + row * D + columns, rounded, mask=mask)
    total = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, axis=0) / D + epsilon)
    tl.store(y_ptr + row * D + columns, (total * scale * weight).to(y_ptr.dtype.element_ty), mask=mask)


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel. Rows may have any stride."""
    num_tokens, d = x.shape
    assert residual.shape == x.shape
    assert residual.dtype == x.dtype
    assert x.stride(1) == residual.stride(1) == 1
    assert weight.shape == (d,)
    assert weight.is_contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    new_residual = torch.empty_like(y)
    if num_tokens == 0:
        return y, new_residual
    add_rms_norm_kernel[(num_tokens,)](
        x,
        residual,
        weight,
        y,
        new_residual,
        x.stride(0),
        residual.stride(0),
        epsilon,
        D=d,
        BLOCK_D=triton.next_power_of_2(d),
        num_warps=row_launch(d).num_warps,
    )
    return y, new_residual


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (the normalised sum, the sum) of x and residual, both [num_tokens, d]; inputs are kept."""
    if x.is_cuda:
        return add_rms_norm_triton(x, residual, weight, epsilon)
    if few_rows.takes(x):
        return few_rows.add_rms_norm(x, residual, weight, epsilon)
    return add_rms_norm_reference(x, residual, weight, epsilon)

"""RMSNorm: y = x / sqrt(mean(x²) + epsilon) * weight, over the last dimension.

x, y: [..., d]; weight: [d]. Arithmetic is float32 (float64 for float64 inputs), rounded once.
Moves 2 * numel(x) elements: each row is read once, held in registers, and written once.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from kernels.launch import row_launch
from kernels.native import few_rows


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Compute in plain torch; the CPU path.

    Few operations, because each costs a microsecond or two, as much as the arithmetic of some rows.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
    return wide.div(torch.hypot(norm, _root(epsilon, wide.dtype))).mul_(weight).to(x.dtype)


@cache
def _root(epsilon: float, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor(epsilon, dtype=dtype).sqrt()


@triton.jit
def rms_norm_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    outer_stride,
    inner_stride,
    epsilon,
    INNER: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a row; rows are numbered over [outer, INNER]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    mask = columns < D
    x_ptr += (row // INNER) * outer_stride + (row % INNER) * inner_stride
    x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / D + epsilon)
    tl.store(y_ptr + row * D + columns, (x * scale * weight).to(y_ptr.dtype.element_ty), mask=mask)


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Launch the kernel. x has two or three dimensions, of any stride but the last."""
    d = x.shape[-1]
    rows = x.unsqueeze(-2) if x.dim() == 2 else x
    assert rows.dim() == 3, x.shape
    assert rows.stride(-1) == 1
    assert weight.shape == (d,)
    assert weight.is_contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    num_outer, num_inner, _ = rows.shape
    if y.numel() == 0:
        return y
    rms_norm_kernel[(num_outer * num_inner,)](
        rows,
        weight,
        y,
        rows.stride(0),
        rows.stride(1),
        epsilon,
        INNER=num_inner,
        D=d,
        BLOCK_D=triton.next_power_of_2(d),
        num_warps=row_launch(d).num_warps,
    )
    return y


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalise the rows of x[..., d] and scale them by weight[d]; returns a new tensor."""
    if x.is_cuda:
        return rms_norm_triton(x, weight, epsilon)
    if x.dim() == 2 and few_rows.takes(x):
        return few_rows.rms_norm(x, weight, epsilon)
    return rms_norm_reference(x, weight, epsilon)

"""Multiply by a weight of eight bits: y[m, n] = s[m] * t[n] * sum_k q[m, k] * weight[n, k] + bias[n].

x: [m, k] of 16 bits, rounded to (q, s) as in `fp8_quantize.py`; weight: [n, k] float8_e4m3fn with scales
t: [n], one an output; y: [m, n] like x, sums in float32. Gated, the weight is [2 * d, k] and y [m, d] is
activated as in `silu_mul.py`. Moves n * k bytes of the weight, half of what 16 bits take.

Many rows go to the tensor cores' product of eight bits. A single row is multiplied as in
`vector_linear.py`; it rounds x as well, so a row's result does not depend on how many there are but for
the order of its sum. On a CPU, eight bits save memory alone: they are widened for each product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kernels.fp8_quantize import fp8_quantize, row_scale
from kernels.launch import VectorLaunch, fp8_vector_launch
from kernels.silu_mul import silu_mul

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A weight of eight bits."""

    values: Tensor
    """[n, k] float8_e4m3fn."""
    scales: Tensor
    """[n] float32."""

    @staticmethod
    def of(weight: Tensor) -> Fp8Weight:
        """Round a weight [n, k]."""
        return Fp8Weight(*fp8_quantize(weight))


@triton.jit
def fp8_vector_linear_kernel(
    x_ptr,
    q_weight_ptr,
    row_scales_ptr,
    y_ptr,
    num_outputs,
    K,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program for each BLOCK_N outputs; BLOCK_K divides K. Each finds the scale of x by itself."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_range = rows < num_outputs
    rows = tl.minimum(rows, num_outputs - 1)
    columns = tl.arange(0, BLOCK_K)
    pointers = q_weight_ptr + rows.to(tl.int64)[:, None] * K + columns[None, :]
    up_offset = tl.full((), num_outputs, tl.int64) * K
    peaks = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        peaks = tl.maximum(peaks, tl.abs(tl.load(x_ptr + start + columns).to(tl.float32)))
    scale = row_scale(tl.max(peaks, axis=0))
    total = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    total_up = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        x = tl.load(x_ptr + start + columns).to(tl.float32) / scale
        x = tl.minimum(tl.maximum(x, -448.0), 448.0)
        q = x.to(q_weight_ptr.dtype.element_ty).to(tl.float32)[None, :]
        total += tl.load(pointers + start).to(tl.float32) * q
        if GATED:
            total_up += tl.load(pointers + up_offset + start).to(tl.float32) * q
    y = tl.sum(total, axis=1) * scale * tl.load(row_scales_ptr + rows)
    if GATED:
        up = tl.sum(total_up, axis=1) * scale * tl.load(row_scales_ptr + num_outputs + rows)
        y = y / (1.0 + tl.exp(-y)) * up
    tl.store(y_ptr + rows, y.to(y_ptr.dtype.element_ty), mask=in_range)


def fp8_vector_linear_triton(x: Tensor, weight: Fp8Weight, is_gated: bool, launch: VectorLaunch) -> Tensor:
    """Launch the kernel for one row; `launch.block_k` divides k."""
    num_rows, k = weight.values.shape
    num_outputs = num_rows // 2 if is_gated else num_rows
    assert x.shape == (1, k)
    assert x.is_contiguous()
    assert weight.values.is_contiguous()
    assert k % launch.block_k == 0
    out = torch.empty((1, num_outputs), dtype=x.dtype, device=x.device)
    fp8_vector_linear_kernel[(triton.cdiv(num_outputs, launch.block_n),)](
        x,
        weight.values,
        weight.scales,
        out,
        num_outputs,
        k,
        GATED=is_gated,
        BLOCK_N=launch.block_n,
        BLOCK_K=launch.block_k,
        num_warps=launch.num_warps,
    )
    return out


def fp8_linear_reference(x: Tensor, weight: Fp8Weight, is_input_gated: bool = False) -> Tensor:
    """Compute in plain torch; the CPU path."""
    q, scales = fp8_quantize(x, is_input_gated)
    product = q.float() @ weight.values.float().t()
    return (product * scales[:, None] * weight.scales[None, :]).to(x.dtype)


def _multiply_rows(q: Tensor, scales: Tensor, weight: Fp8Weight, dtype: torch.dtype) -> Tensor:
    return torch._scaled_mm(
        q,
        weight.values.t(),
        scale_a=scales[:, None],
        scale_b=weight.scales[None, :],
        out_dtype=dtype,
        use_fast_accum=True,
    )


def fp8_linear(x: Tensor, weight: Fp8Weight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [..., k] by the weight [n, k]; returns [..., n]."""
    rows = x.reshape(-1, x.shape[-1])
    if not x.is_cuda:
        product = fp8_linear_reference(rows, weight)
    elif len(rows) == 1 and (launch := fp8_vector_launch(*weight.values.shape)) is not None:
        product = fp8_vector_linear_triton(rows.contiguous(), weight, False, launch)
    else:
        product = _multiply_rows(*fp8_quantize(rows), weight, x.dtype)
    if bias is not None:
        product = product + bias
    return product.view(*x.shape[:-1], -1)


def fp8_linear_silu_mul(x: Tensor, weight: Fp8Weight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [num_rows, k] by the weight [2 * d, k], and apply `silu_mul`; returns [num_rows, d]."""
    launch = fp8_vector_launch(*weight.values.shape)
    if x.is_cuda and bias is None and len(x) == 1 and launch is not None:
        return fp8_vector_linear_triton(x.contiguous(), weight, True, launch)
    return silu_mul(fp8_linear(x, weight, bias))

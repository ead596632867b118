"""Round rows to eight bits, each with a scale of its own: q = round(x / s), s = max |x| / 448.

x: [num_rows, k] of any float type; q: [num_rows, k] float8_e4m3fn, whose largest number is 448; s: [num_rows]
float32. A row of zeros has the scale 1. Gated, x is [num_rows, 2 * k] and its rows are first activated as in
`silu_mul.py`. Moves 3 bytes an element of q from 16-bit types, 5 if gated.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
BLOCK = 2048
NUM_WARPS = 8


def fp8_quantize_reference(x: torch.Tensor, is_gated: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute in plain torch; the CPU path."""
    values = x.float()
    if is_gated:
        gate, up = values.chunk(2, dim=-1)
        values = torch.nn.functional.silu(gate) * up
    scales = values.abs().amax(-1) / LARGEST
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (values / scales[:, None]).clamp(-LARGEST, LARGEST).to(FP8), scales


@triton.jit
def load_values(x_ptr, columns, mask, K: tl.constexpr, GATED: tl.constexpr):
    """Load a block of a row as float32, activated where it is gated."""
    values = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(x_ptr + K + columns, mask=mask, other=0.0).to(tl.float32)
        values = values / (1.0 + tl.exp(-values)) * up
    return values


@triton.jit
def row_scale(peak):
    """The scale of a row whose largest magnitude is `peak`."""
    return tl.where(peak > 0.0, peak / 448.0, 1.0)


@triton.jit
def fp8_quantize_kernel(
    x_ptr,
    quantized_ptr,
    row_scales_ptr,
    x_stride,
    K: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program a row, which it reads twice: the second time from the cache."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * x_stride
    columns = tl.arange(0, BLOCK_K)
    peaks = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        values = load_values(x_ptr, start + columns, start + columns < K, K, GATED)
        peaks = tl.maximum(peaks, tl.abs(values))
    scale = row_scale(tl.max(peaks, axis=0))
    tl.store(row_scales_ptr + row, scale)
    for start in range(0, K, BLOCK_K):
        mask = start + columns < K
        values = load_values(x_ptr, start + columns, mask, K, GATED) / scale
        values = tl.minimum(tl.maximum(values, -448.0), 448.0)
        tl.store(
            quantized_ptr + row * K + start + columns, values.to(quantized_ptr.dtype.element_ty), mask=mask
        )


def fp8_quantize_triton(x: torch.Tensor, is_gated: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel. Rows may have any stride."""
    num_rows, width = x.shape
    assert x.stride(1) == 1
    k = width // 2 if is_gated else width
    q = torch.empty((num_rows, k), dtype=FP8, device=x.device)
    scales = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    if q.numel():
        fp8_quantize_kernel[(num_rows,)](
            x,
            q,
            scales,
            x.stride(0),
            K=k,
            GATED=is_gated,
            BLOCK_K=min(BLOCK, triton.next_power_of_2(k)),
            num_warps=NUM_WARPS,
        )
    return q, scales


def fp8_quantize(x: torch.Tensor, is_gated: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise rows [num_rows, k], or [num_rows, 2 * k] gated; returns q [num_rows, k] and s [num_rows]."""
    return fp8_quantize_triton(x, is_gated) if x.is_cuda else fp8_quantize_reference(x, is_gated)

"""Multiply one row by a weight: y[n] = sum_k x[k] * weight[n, k]; gated, y[n] = silu(y[n]) * y[n + d].

x: [1, k]; weight: [n, k], of one 16-bit or 32-bit type; y: [1, n], or [1, d] with d = n / 2 if gated, where
the first half of the weight's rows makes the gates. Sums are float32.
Moves n * k elements of the weight, each once. A matrix product's tile would be nearly empty; here a program
multiplies a few rows of the weight element by element, and the many programs of a multiprocessor keep enough
bytes on their way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.launch import VectorLaunch, vector_launch


@triton.jit
def vector_linear_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    num_outputs,
    K,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program for each BLOCK_N outputs; BLOCK_K divides K."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_range = rows < num_outputs
    columns = tl.arange(0, BLOCK_K)
    pointers = weight_ptr + tl.minimum(rows, num_outputs - 1).to(tl.int64)[:, None] * K + columns[None, :]
    up_offset = tl.full((), num_outputs, tl.int64) * K
    total = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    total_up = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        x = tl.load(x_ptr + start + columns).to(tl.float32)[None, :]
        total += tl.load(pointers + start).to(tl.float32) * x
        if GATED:
            total_up += tl.load(pointers + up_offset + start).to(tl.float32) * x
    y = tl.sum(total, axis=1)
    if GATED:
        y = y / (1.0 + tl.exp(-y)) * tl.sum(total_up, axis=1)
    tl.store(y_ptr + rows, y.to(y_ptr.dtype.element_ty), mask=in_range)


def vector_linear_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    is_gated: bool,
    launch: VectorLaunch,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Launch the kernel; `launch.block_k` divides k."""
    num_rows, k = weight.shape
    num_outputs = num_rows // 2 if is_gated else num_rows
    assert x.shape == (1, k)
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert k % launch.block_k == 0
    if out is None:
        out = torch.empty((1, num_outputs), dtype=x.dtype, device=x.device)
    vector_linear_kernel[(triton.cdiv(num_outputs, launch.block_n),)](
        x,
        weight,
        out,
        num_outputs,
        k,
        GATED=is_gated,
        BLOCK_N=launch.block_n,
        BLOCK_K=launch.block_k,
        num_warps=launch.num_warps,
    )
    return out


def vector_linear_reference(x: torch.Tensor, weight: torch.Tensor, is_gated: bool) -> torch.Tensor:
    """Compute in plain torch."""
    y = torch.nn.functional.linear(x, weight)
    if not is_gated:
        return y
    gate, up = y.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether this is one row on a GPU, in a shape that the kernel multiplies fast."""
    if not x.is_cuda or x.dim() != 2 or x.shape[0] != 1 or x.dtype == torch.float32:
        return False
    return x.is_contiguous() and vector_launch(*weight.shape) is not None


def vector_linear(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply x [1, k] by the weight [n, k], which `takes` has accepted; returns [1, n]."""
    launch = vector_launch(*weight.shape)
    assert launch is not None
    return vector_linear_triton(x, weight, False, launch, out)


def gated_vector_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same, gated, for a weight [2 * d, k]; returns [1, d]."""
    launch = vector_launch(*weight.shape)
    assert launch is not None
    return vector_linear_triton(x, weight, True, launch)

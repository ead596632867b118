"""Multiply a few rows by a weight: y[m, n] = sum_k x[m, k] * weight[n, k]; gated, as in `vector_linear.py`.

x: [m, k]; weight: [n, k], of one 16-bit type; y: [m, n], or [m, n / 2] if gated. Sums are float32.
Moves n * k elements of the weight, each once. The weight's rows fill the tall side of the tensor cores'
tiles, and the rows of x, padded to 16, the short side. A deep pipeline keeps enough bytes on their way.
Where the weight has too few rows to fill the device, programs share the inputs, and the last to end adds up
their parts, in one order. `vector_linear_reference` computes the same in plain torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.arrival import arrival_counters, is_last
from kernels.launch import SkinnyLaunch, architecture, skinny_launch


@triton.jit
def store_outputs(
    sums,
    y_ptr,
    first,
    num_rows,
    num_outputs,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Store OUTPUTS outputs from `first` on, of each row. If GATED, half of the sums make gates."""
    if GATED:
        gate, up = tl.split(tl.permute(tl.reshape(sums, (2, OUTPUTS, BLOCK_M)), (1, 2, 0)))
        sums = gate / (1.0 + tl.exp(-gate)) * up
    rows = tl.arange(0, BLOCK_M)
    outputs = first + tl.arange(0, OUTPUTS)
    mask = (outputs < num_outputs)[:, None] & (rows < num_rows)[None, :]
    pointers = y_ptr + rows[None, :] * num_outputs + outputs[:, None]
    tl.store(pointers, sums.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def skinny_linear_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    parts_ptr,
    counters_ptr,
    num_rows,
    num_outputs,
    K,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One program for each (split of the inputs, BLOCK_N rows of the weight); BLOCK_K divides K.

    parts: [tiles, SPLITS, BLOCK_N, BLOCK_M] float32, and counters those of `arrival.py`, if SPLITS > 1.
    """
    split = tl.program_id(0)
    tile = tl.program_id(1)
    OUTPUTS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    places = tl.arange(0, BLOCK_N)
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_K)
    outputs = tl.minimum(tile * OUTPUTS + places % OUTPUTS, num_outputs - 1)
    weight_rows = outputs + places // OUTPUTS * num_outputs
    weight_pointers = weight_ptr + weight_rows.to(tl.int64)[:, None] * K + columns[None, :]
    x_pointers = x_ptr + rows[None, :] * K + columns[:, None]
    is_row = (rows < num_rows)[None, :]

    num_steps = K // BLOCK_K
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for step in range(num_steps * split // SPLITS, num_steps * (split + 1) // SPLITS):
        weight = tl.load(weight_pointers + step * BLOCK_K)
        x = tl.load(x_pointers + step * BLOCK_K, mask=is_row, other=0.0)
        sums = tl.dot(weight, x, sums)

    if SPLITS == 1:
        store_outputs(sums, y_ptr, tile * OUTPUTS, num_rows, num_outputs, GATED, BLOCK_M, OUTPUTS)
    else:
        parts = parts_ptr + (tile * SPLITS * BLOCK_N + places[:, None]) * BLOCK_M + rows[None, :]
        tl.store(parts + split * (BLOCK_N * BLOCK_M), sums)
        if is_last(counters_ptr + tile, SPLITS):
            sums = tl.load(parts)
            for other in tl.static_range(1, SPLITS):
                sums += tl.load(parts + other * (BLOCK_N * BLOCK_M))
            store_outputs(sums, y_ptr, tile * OUTPUTS, num_rows, num_outputs, GATED, BLOCK_M, OUTPUTS)


def skinny_linear_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    is_gated: bool,
    launch: SkinnyLaunch,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Launch the kernel; `launch.block_k` divides k, and `launch.block_m` is at least m."""
    num_rows, k = x.shape
    num_outputs = len(weight) // 2 if is_gated else len(weight)
    assert weight.shape[1] == k
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert num_rows <= launch.block_m
    assert k % launch.block_k == 0
    if out is None:
        out = torch.empty((num_rows, num_outputs), dtype=x.dtype, device=x.device)
    assert out.is_contiguous()
    num_tiles = triton.cdiv(num_outputs, launch.block_n // 2 if is_gated else launch.block_n)
    parts, counters = None, None
    if launch.splits > 1:
        shape = (num_tiles, launch.splits, launch.block_n, launch.block_m)
        parts = torch.empty(shape, dtype=torch.float32, device=x.device)
        counters = arrival_counters(x.device)
        assert num_tiles <= len(counters)
    skinny_linear_kernel[(launch.splits, num_tiles)](
        x,
        weight,
        out,
        parts,
        counters,
        num_rows,
        num_outputs,
        k,
        GATED=is_gated,
        BLOCK_M=launch.block_m,
        BLOCK_N=launch.block_n,
        BLOCK_K=launch.block_k,
        SPLITS=launch.splits,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    return out


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether these are a few rows on a GPU, in a shape that the kernel multiplies fast."""
    if not x.is_cuda or x.dim() != 2 or x.element_size() != 2 or x.dtype != weight.dtype:
        return False
    return x.is_contiguous() and _find_launch(x, weight) is not None


def skinny_linear(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply x [m, k] by the weight [n, k], which `takes` has accepted; returns [m, n]."""
    launch = _find_launch(x, weight)
    assert launch is not None
    return skinny_linear_triton(x, weight, False, launch, out)


def gated_skinny_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same, gated, for a weight [2 * d, k]; returns [m, d]."""
    launch = _find_launch(x, weight)
    assert launch is not None
    return skinny_linear_triton(x, weight, True, launch)


def _find_launch(x: torch.Tensor, weight: torch.Tensor) -> SkinnyLaunch | None:
    return skinny_launch(architecture(x.device), len(x), *weight.shape)

"""SwiGLU's activation: y = silu(gate) * up, where silu(a) = a / (1 + exp(-a)).

gate_up: [num_tokens, 2 * d], gate in the first half of a row and up in the second; y: [num_tokens, d].
Moves 3 * numel(y) elements.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.native import few_rows

BLOCK = 1024
NUM_WARPS = 4


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute in plain torch; the CPU path."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


@triton.jit
def silu_mul_kernel(gate_up_ptr, y_ptr, gate_up_stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """One program for each block of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = columns < D
    gate_up_ptr += row * gate_up_stride
    gate = tl.load(gate_up_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + D + columns, mask=mask, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * D + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def silu_mul_triton(gate_up: torch.Tensor) -> torch.Tensor:
    """Launch the kernel. Rows may have any stride."""
    num_tokens, width = gate_up.shape
    assert width % 2 == 0
    assert gate_up.stride(1) == 1
    y = torch.empty((num_tokens, width // 2), dtype=gate_up.dtype, device=gate_up.device)
    if y.numel() == 0:
        return y
    silu_mul_kernel[(num_tokens, triton.cdiv(width // 2, BLOCK))](
        gate_up, y, gate_up.stride(0), D=width // 2, BLOCK_D=BLOCK, num_warps=NUM_WARPS
    )
    return y


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Activate gate_up[num_tokens, 2 * d]; returns [num_tokens, d]."""
    if gate_up.is_cuda:
        return silu_mul_triton(gate_up)
    if few_rows.takes(gate_up):
        return few_rows.silu_mul(gate_up)
    return silu_mul_reference(gate_up)

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close, poisoned

from kernels.silu_mul import silu_mul, silu_mul_reference, silu_mul_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().cpu().chunk(2, -1)
    return gate * gate.sigmoid() * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (5, 246), (3, 3072), (2, 4098), (0, 64)])
def test_matches_the_formula(device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = torch.randn(shape).to(device, dtype)
    with poisoned():
        y = silu_mul_triton(gate_up)
    assert y.dtype == dtype
    assert_close(y, formula(gate_up))


def test_reads_rows_of_any_stride(device: torch.device) -> None:
    gate_up = torch.randn(6, 300, device=device)[::2, 3:249]
    assert_close(silu_mul_triton(gate_up), formula(gate_up))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, in the interpreter
def test_large_gates_do_not_overflow(device: torch.device) -> None:
    gate_up = torch.tensor([[-200.0, -90.0, 90.0, 200.0, 1.0, 2.0, 3.0, 4.0]], device=device)
    assert_close(silu_mul_triton(gate_up), formula(gate_up))


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("shape", [(5, 246), (0, 64)])
def test_reference_matches_the_formula(shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = torch.randn(shape, dtype=dtype)
    assert_close(silu_mul_reference(gate_up), formula(gate_up))


def test_the_cpu_takes_the_reference() -> None:
    gate_up = torch.randn(100, 64)
    assert torch.equal(silu_mul(gate_up), silu_mul_reference(gate_up))

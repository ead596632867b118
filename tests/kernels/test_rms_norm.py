from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close, poisoned

from kernels.rms_norm import rms_norm, rms_norm_reference, rms_norm_triton

EPSILON = 1e-5
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def formula(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.double().cpu()
    return wide / (wide.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double().cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (7, 576), (3, 4096), (0, 64), (4, 9, 64), (2, 3, 80)])
def test_matches_the_formula(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(device, dtype)
    weight = torch.randn(shape[-1]).to(device, dtype)
    with poisoned():
        y = rms_norm_triton(x, weight, EPSILON)
    assert y.dtype == dtype
    assert y.is_contiguous()
    assert_close(y, formula(x, weight))


def test_reads_rows_of_any_stride(device: torch.device) -> None:
    x = torch.randn(6, 5, 200, device=device)[::2, 1:4, 40:163]
    weight = torch.randn(123, device=device)
    assert_close(rms_norm_triton(x, weight, EPSILON), formula(x, weight))
    assert_close(rms_norm_triton(x[:, 1], weight, EPSILON), formula(x[:, 1], weight))


def test_epsilon_keeps_a_row_of_zeros_finite(device: torch.device) -> None:
    y = rms_norm_triton(torch.zeros(2, 64, device=device), torch.ones(64, device=device), EPSILON)
    assert torch.equal(y.cpu(), torch.zeros(2, 64))


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("shape", [(5, 123), (4, 9, 64), (0, 64)])
def test_reference_matches_the_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    assert_close(rms_norm_reference(x, weight, EPSILON), formula(x, weight))


def test_the_cpu_takes_the_reference() -> None:
    x, weight = torch.randn(100, 64), torch.randn(64)
    assert torch.equal(rms_norm(x, weight, EPSILON), rms_norm_reference(x, weight, EPSILON))

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close, poisoned

from kernels.add_rms_norm import add_rms_norm, add_rms_norm_reference, add_rms_norm_triton

EPSILON = 1e-6
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def formula(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = total.double().cpu()
    return wide / (wide.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double().cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (7, 576), (3, 4096), (0, 64)])
def test_matches_the_formula(device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = torch.randn(shape).to(device, dtype), torch.randn(shape).to(device, dtype)
    weight = torch.randn(shape[-1]).to(device, dtype)
    kept = x.clone(), residual.clone()
    with poisoned():
        y, total = add_rms_norm_triton(x, residual, weight, EPSILON)
    assert_close(total, x.double().cpu() + residual.double().cpu())
    assert_close(y, formula(total, weight))
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_reads_rows_of_any_stride(device: torch.device) -> None:
    x = torch.randn(6, 300, device=device)[::2, 40:163]
    residual = torch.randn(3, 123, device=device)
    weight = torch.randn(123, device=device)
    y, total = add_rms_norm_triton(x, residual, weight, EPSILON)
    assert_close(total, x.double().cpu() + residual.double().cpu())
    assert_close(y, formula(total, weight))


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("shape", [(5, 123), (0, 64)])
def test_reference_matches_the_formula(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    weight = torch.randn(shape[-1], dtype=dtype)
    kept = x.clone(), residual.clone()
    y, total = add_rms_norm_reference(x, residual, weight, EPSILON)
    assert_close(total, x.double() + residual.double())
    assert_close(y, formula(total, weight))
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_the_cpu_takes_the_reference() -> None:
    x, residual, weight = torch.randn(100, 64), torch.randn(100, 64), torch.randn(64)
    for actual, expected in zip(
        add_rms_norm(x, residual, weight, EPSILON),
        add_rms_norm_reference(x, residual, weight, EPSILON),
        strict=True,
    ):
        assert torch.equal(actual, expected)

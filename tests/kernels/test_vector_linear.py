from __future__ import annotations

import pytest
import torch
from kernel_checks import TOLERANCE

from kernels.launch import VectorLaunch
from kernels.vector_linear import vector_linear_reference, vector_linear_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def formula(x: torch.Tensor, weight: torch.Tensor, is_gated: bool) -> torch.Tensor:
    y = x.double().cpu() @ weight.double().cpu().T
    if not is_gated:
        return y
    gate, up = y.chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "k", "block_n", "block_k"), [(2, 64, 4, 64), (30, 128, 4, 32), (64, 256, 8, 256), (70, 96, 1, 32)]
)
def test_matches_the_formula(
    device: torch.device, n: int, k: int, block_n: int, block_k: int, dtype: torch.dtype, is_gated: bool
) -> None:
    x = torch.randn(1, k).to(device, dtype)
    weight = torch.randn(n, k).to(device, dtype) / k**0.5
    expected = formula(x, weight, is_gated)
    out = torch.full(expected.shape, float("nan"), dtype=dtype, device=device)
    vector_linear_triton(x, weight, is_gated, VectorLaunch(block_n, block_k, 4), out)
    tolerance = 4 * TOLERANCE[dtype]
    torch.testing.assert_close(out.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    assert vector_linear_triton(x, weight, is_gated, VectorLaunch(block_n, block_k, 4)).equal(out)


@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
def test_reference_matches_the_formula(is_gated: bool) -> None:
    x, weight = torch.randn(1, 48, dtype=torch.float64), torch.randn(10, 48, dtype=torch.float64)
    torch.testing.assert_close(vector_linear_reference(x, weight, is_gated), formula(x, weight, is_gated))

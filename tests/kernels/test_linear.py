from __future__ import annotations

import pytest
import torch

from kernels.linear import linear, prepare_weight


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 16, 70, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_matches_float64(num_rows: int, dtype: torch.dtype, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    x = torch.randn(num_rows, 96, generator=generator).to(dtype)
    weight = torch.randn(200, 96, generator=generator).to(dtype)
    bias = torch.randn(200, generator=generator).to(dtype) if with_bias else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    result = linear(x, prepare_weight(weight), bias)
    assert result.dtype == dtype
    error = (result.double() - exact).abs().max().item() if num_rows else 0.0
    assert error <= 40 * torch.finfo(dtype).eps * 4


def test_leading_dimensions_are_kept() -> None:
    weight = prepare_weight(torch.randn(8, 4))
    assert linear(torch.randn(2, 3, 4), weight).shape == (2, 3, 8)

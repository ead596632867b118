from __future__ import annotations

import pytest
import torch

from kernels.linear import linear, prepare_weight

DTYPES = [  # of activations and weights
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
]


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 16, 128, 129])
@pytest.mark.parametrize(("activation_dtype", "weight_dtype"), DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_matches_float64(
    num_rows: int, activation_dtype: torch.dtype, weight_dtype: torch.dtype, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    x = torch.randn(num_rows, 96, generator=generator).to(activation_dtype)
    weight = torch.randn(200, 96, generator=generator).to(weight_dtype)
    bias = torch.randn(200, generator=generator).to(activation_dtype) if with_bias else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    result = linear(x, prepare_weight(weight, activation_dtype), bias)
    assert result.dtype == activation_dtype
    assert result.shape == (num_rows, 200)
    assert result.is_contiguous()
    # x and the result are rounded once each, and float32 sums round as they grow.
    scale = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.double().abs())
    assert ((result.double() - exact).abs() <= 4 * torch.finfo(weight_dtype).eps * scale).all()


def test_narrow_weights_are_exact_under_float32_activations() -> None:
    x = torch.randn(5, 64)
    weight = torch.randn(50, 64).bfloat16()
    torch.testing.assert_close(linear(x, prepare_weight(weight, torch.float32)), x @ weight.float().T)


def test_weights_beyond_float16_are_not_packed_in_it() -> None:
    x = torch.randn(5, 64)
    weight = torch.randn(50, 64).bfloat16()
    weight[3, 3] = 1e30
    torch.testing.assert_close(linear(x, prepare_weight(weight, torch.float32)), x @ weight.float().T)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs AVX-512")
def test_onednn_packs_bfloat16() -> None:
    assert prepare_weight(torch.randn(8, 4).bfloat16(), torch.bfloat16).onednn is not None


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_only_factors_are_rounded(
    monkeypatch: pytest.MonkeyPatch, *, is_packed: bool, with_bias: bool
) -> None:
    if not is_packed:  # as on a processor that oneDNN has no bfloat16 for
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    x, weight = torch.randn(5, 64), torch.randn(50, 64).bfloat16()
    bias = torch.randn(50) if with_bias else None
    result = linear(x, prepare_weight(weight, torch.bfloat16), bias)
    assert result.dtype == torch.float32
    product = x.bfloat16().float() @ weight.float().T
    torch.testing.assert_close(result, product if bias is None else product + bias, rtol=8e-3, atol=8e-3)


def test_leading_dimensions_are_kept() -> None:
    weight = prepare_weight(torch.randn(8, 4), torch.float32)
    assert linear(torch.randn(2, 3, 4), weight).shape == (2, 3, 8)
    assert linear(torch.randn(4), weight).shape == (8,)

from __future__ import annotations

import pytest
import torch

from kernels.fp8_linear import (
    Fp8Weight,
    fp8_linear,
    fp8_linear_reference,
    fp8_linear_silu_mul,
    fp8_vector_linear_triton,
)
from kernels.fp8_quantize import FP8, LARGEST, fp8_quantize, fp8_quantize_reference, fp8_quantize_triton
from kernels.launch import VectorLaunch

DTYPES = [torch.float32, torch.bfloat16]


def dequantised(q: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return q.double() * scales.double()[:, None]


@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "k"), [(1, 16), (3, 48), (5, 2100)])
def test_quantising(device: torch.device, num_rows: int, k: int, dtype: torch.dtype, is_gated: bool) -> None:
    x = (torch.randn(num_rows, 2 * k if is_gated else k) * 3).to(device, dtype)
    q, scales = fp8_quantize_triton(x, is_gated)
    expected_q, expected_scales = fp8_quantize_reference(x, is_gated)
    assert q.dtype == FP8
    torch.testing.assert_close(scales, expected_scales)
    ours, expected = q.cpu().float(), expected_q.cpu().float()
    if not x.is_cuda:  # the interpreter does not carry where a number is rounded up to a power of two
        carried = expected.abs().log2().frac() == 0
        ours = torch.where(carried, expected, ours)
    steps = (ours - expected).abs() / expected.abs().clamp(min=0.125)
    assert steps.max() <= 0.13  # one step of three bits of mantissa
    assert (steps > 0).float().mean() < 0.02


def test_rows_of_zeros_and_extremes() -> None:
    x = torch.tensor([[0.0, 0.0], [1e30, -1e30], [448.0, 1.0]])
    q, scales = fp8_quantize_reference(x)
    assert scales[0] == 1.0
    torch.testing.assert_close(dequantised(q, scales), x.double(), rtol=0.07, atol=0.0)
    assert q.float().abs().max() == LARGEST


def test_the_error_of_a_weight_is_that_of_three_bits() -> None:
    weight = torch.randn(64, 128)
    rounded = Fp8Weight.of(weight)
    error = dequantised(rounded.values, rounded.scales) - weight.double()
    assert error.abs().max() <= weight.abs().max() / 16
    assert error.pow(2).mean().sqrt() < 0.04


@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "k", "block_n", "block_k"), [(2, 64, 4, 64), (30, 128, 4, 32), (64, 256, 8, 256)]
)
def test_one_row(
    device: torch.device, n: int, k: int, block_n: int, block_k: int, dtype: torch.dtype, is_gated: bool
) -> None:
    x = (torch.randn(1, k) * 100).clamp(-LARGEST, LARGEST).to(FP8).to(device, dtype)
    x[0, 0] = LARGEST  # so the scale is 1, and nothing is rounded
    weight = Fp8Weight.of((torch.randn(n, k) / (100 * k**0.5)).to(device))
    expected = fp8_linear_reference(x, weight).double()
    if is_gated:
        gate, up = expected.chunk(2, -1)
        expected = torch.nn.functional.silu(gate) * up
    out = fp8_vector_linear_triton(x, weight, is_gated, VectorLaunch(block_n, block_k, 4))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_products_of_rows_and_biases() -> None:
    x, weight, bias = torch.randn(2, 3, 32), torch.randn(24, 32), torch.randn(24)
    rounded = Fp8Weight.of(weight)
    product = fp8_linear(x, rounded, bias)
    assert product.shape == (2, 3, 24)
    exact = x @ weight.t() + bias
    assert (product - exact).pow(2).mean().sqrt() < 0.06 * exact.std()
    gated = fp8_linear_silu_mul(x[0], rounded)
    gate, up = fp8_linear(x[0], rounded).chunk(2, -1)
    torch.testing.assert_close(gated, torch.nn.functional.silu(gate) * up)


@pytest.mark.gpu
@pytest.mark.parametrize("num_rows", [1, 2, 7, 16, 33, 300])
def test_any_number_of_rows_on_the_device(device: torch.device, num_rows: int) -> None:
    x = torch.randn(num_rows, 1024, device=device).bfloat16()
    weight = Fp8Weight.of(torch.randn(512, 1024, device=device) / 32)
    q, scales = fp8_quantize(x)
    product = q.double() @ weight.values.double().t()
    expected = product * scales[:, None].double() * weight.scales[None, :].double()
    # Tensor cores keep fewer bits of the sums of eight-bit products.
    torch.testing.assert_close(fp8_linear(x, weight).double(), expected, rtol=2e-2, atol=2e-2)

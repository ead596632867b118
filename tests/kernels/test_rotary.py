from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close

from kernels.rotary import rotary, rotary_reference, rotary_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MAX_POSITION = 300


def make_inputs(
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and k are slices of one tensor, as they come from a merged projection."""
    merged = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim).to(device, dtype)
    q, k, _ = merged.split([num_heads, num_kv_heads, num_kv_heads], 1)
    positions = torch.randint(MAX_POSITION, (num_tokens,), device=device)
    angles = torch.rand(MAX_POSITION, head_dim // 2, device=device) * 6.28
    return q, k, positions, torch.cat([angles.cos(), angles.sin()], -1)


def formula(x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    cos, sin = cos_sin.double().cpu()[positions.cpu()][:, None].chunk(2, -1)
    x1, x2 = x.double().cpu().chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_kv_heads", "head_dim"),
    [(1, 1, 1, 2), (5, 9, 3, 64), (3, 8, 8, 80), (17, 14, 2, 128), (0, 4, 2, 64)],
)
def test_matches_the_formula(
    device: torch.device,
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
) -> None:
    q, k, positions, cos_sin = make_inputs(num_tokens, num_heads, num_kv_heads, head_dim, dtype, device)
    expected = [formula(x, positions, cos_sin) for x in (q, k)]
    rotary_triton(q, k, positions, cos_sin)
    assert_close(q, expected[0])
    assert_close(k, expected[1])


def test_touches_only_q_and_k(device: torch.device) -> None:
    merged = torch.randn(4, 8, 64, device=device)
    q, k, values = merged.split([4, 2, 2], 1)
    kept = values.clone()
    cos_sin = torch.randn(10, 64, device=device)
    rotary_triton(q, k, torch.arange(4, device=device), cos_sin)
    assert torch.equal(values, kept)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_reference_matches_the_formula(num_tokens: int, dtype: torch.dtype) -> None:
    q, k, positions, cos_sin = make_inputs(num_tokens, 9, 3, 64, dtype, torch.device("cpu"))
    expected = [formula(x, positions, cos_sin) for x in (q, k)]
    rotary_reference(q, k, positions, cos_sin)
    assert_close(q, expected[0])
    assert_close(k, expected[1])


def test_the_cpu_takes_the_reference() -> None:
    q, k, positions, cos_sin = make_inputs(5, 4, 2, 64, torch.float32, torch.device("cpu"))
    expected_q, expected_k = q.clone(), k.clone()
    rotary_reference(expected_q, expected_k, positions, cos_sin)
    rotary(q, k, positions, cos_sin)
    assert torch.equal(q, expected_q)
    assert torch.equal(k, expected_k)

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close

from kernels.rotary_write import HeadNorms, rotary_write, rotary_write_reference, rotary_write_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MAX_POSITION = 300
EPSILON = 1e-5

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, HeadNorms | None, torch.Tensor, torch.Tensor]


def make_inputs(
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    has_norms: bool,
) -> Inputs:
    """q, k and v are slices of one tensor, as they come from a merged projection."""
    merged = 3 * torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim).to(device, dtype)
    q, k, v = merged.split([num_heads, num_kv_heads, num_kv_heads], 1)
    weights = 1 + 0.2 * torch.randn(2, head_dim).to(device, dtype)
    norms = HeadNorms(weights[0], weights[1], EPSILON) if has_norms else None
    positions = torch.randint(MAX_POSITION, (num_tokens,), device=device)
    angles = torch.rand(MAX_POSITION, head_dim // 2, device=device) * 6.28
    return q, k, v, norms, positions, torch.cat([angles.cos(), angles.sin()], -1)


def formula(
    x: torch.Tensor, weight: torch.Tensor | None, positions: torch.Tensor, cos_sin: torch.Tensor
) -> torch.Tensor:
    x = x.double().cpu()
    if weight is not None:
        x = x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double().cpu()
    cos, sin = cos_sin.double().cpu()[positions.cpu()][:, None].chunk(2, -1)
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


def check(
    compute: object,
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    norms: bool,
) -> None:
    """The queries are right, every slot has its token, and the rest of the cache is as it was."""
    num_tokens, num_heads, num_kv_heads, head_dim, block_size = shape
    q, k, v, head_norms, positions, cos_sin = make_inputs(
        num_tokens, num_heads, num_kv_heads, head_dim, dtype, device, norms
    )
    num_blocks = num_tokens // block_size + 3
    k_cache = torch.randn(num_blocks, num_kv_heads, block_size, head_dim).to(device, dtype)
    v_cache = torch.randn_like(k_cache)
    slots = torch.randperm(num_blocks * block_size, device=device)[:num_tokens]
    slots[1::3] = -1
    expected_q = formula(q, head_norms.q_weight if head_norms else None, positions, cos_sin)
    new_keys = formula(k, head_norms.k_weight if head_norms else None, positions, cos_sin)
    new_values = v.double().cpu()
    expected_k, expected_v = k_cache.double().cpu(), v_cache.double().cpu()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_k[slot // block_size, :, slot % block_size] = new_keys[token]
            expected_v[slot // block_size, :, slot % block_size] = new_values[token]
    assert callable(compute)
    turned = compute(q, k, v, head_norms, positions, cos_sin, k_cache, v_cache, slots)
    assert_close(turned, expected_q)
    assert_close(k_cache, expected_k)
    assert torch.equal(v_cache.double().cpu(), expected_v)


SHAPES = [(1, 1, 1, 16, 16), (5, 6, 3, 64, 1), (3, 8, 8, 80, 4), (17, 14, 2, 128, 24), (0, 4, 2, 64, 16)]


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(
    device: torch.device, shape: tuple[int, int, int, int, int], dtype: torch.dtype, norms: bool
) -> None:
    check(rotary_write_triton, shape, dtype, device, norms)


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_cpu_matches_the_formula(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, norms: bool
) -> None:
    check(rotary_write_reference, shape, dtype, torch.device("cpu"), norms)
    check(rotary_write, shape, dtype, torch.device("cpu"), norms)

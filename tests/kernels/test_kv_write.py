from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernels.kv_write import kv_write, kv_write_reference, kv_write_triton

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make_tokens(
    num_tokens: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices of one tensor, as they come from a merged projection."""
    merged = torch.randn(num_tokens, 5 * num_kv_heads, head_dim).to(device, dtype)
    return merged[:, 3 * num_kv_heads : 4 * num_kv_heads], merged[:, 4 * num_kv_heads :]


def check(
    write: Callable[..., None],
    num_tokens: int,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Every slot gets its token, negative slots are skipped, and nothing else changes."""
    k, v = make_tokens(num_tokens, num_kv_heads, head_dim, dtype, device)
    num_blocks = num_tokens // block_size + 3
    k_cache = torch.randn(num_blocks, num_kv_heads, block_size, head_dim).to(device, dtype)
    v_cache = torch.randn_like(k_cache)
    slots = torch.randperm(num_blocks * block_size, device=device)[:num_tokens]
    slots[1::3] = -1
    expected_k, expected_v = k_cache.clone(), v_cache.clone()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_k[slot // block_size, :, slot % block_size] = k[token]
            expected_v[slot // block_size, :, slot % block_size] = v[token]
    write(k, v, k_cache, v_cache, slots)
    assert torch.equal(k_cache, expected_k)
    assert torch.equal(v_cache, expected_v)


SHAPES = [(1, 1, 64, 16), (5, 3, 64, 1), (17, 2, 80, 16), (33, 8, 128, 24), (0, 2, 64, 16)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "num_kv_heads", "head_dim", "block_size"), SHAPES)
def test_stores_tokens_at_their_slots(
    device: torch.device,
    num_tokens: int,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
) -> None:
    check(kv_write_triton, num_tokens, num_kv_heads, head_dim, block_size, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "num_kv_heads", "head_dim", "block_size"), SHAPES)
def test_the_cpu_stores_tokens_at_their_slots(
    num_tokens: int, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> None:
    check(kv_write_reference, num_tokens, num_kv_heads, head_dim, block_size, dtype, torch.device("cpu"))
    check(kv_write, num_tokens, num_kv_heads, head_dim, block_size, dtype, torch.device("cpu"))


def test_writes_beyond_two_to_the_31_elements(device: torch.device) -> None:
    num_kv_heads, block_size, head_dim = 2, 16, 64
    num_blocks = 2**31 // (num_kv_heads * block_size * head_dim) + 2
    cache = torch.empty((num_blocks, num_kv_heads, block_size, head_dim), dtype=torch.int8, device=device)
    cache[0] = 0
    k = torch.randint(1, 100, (1, num_kv_heads, head_dim), dtype=torch.int8, device=device)
    slots = torch.tensor([num_blocks * block_size - 1], device=device)
    kv_write_triton(k, k, cache, cache, slots)
    assert torch.equal(cache[-1, :, -1], k[0])
    assert not cache[0].any()

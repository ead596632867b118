"""Keys and values of eight bits: written as the nearest, read as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from paged_batch import Shape, make_paged_batch

from kernels.fp8_quantize import FP8
from kernels.kv_write import kv_write_reference, kv_write_triton
from kernels.paged_attention import paged_attention_reference, paged_attention_triton
from kernels.rotary_write import rotary_write_reference, rotary_write_triton

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = Shape(num_heads=4, num_kv_heads=2, head_dim=64, block_size=16)
LENS = [(1, 40), (1, 3), (7, 30), (20, 20)]


def test_attention_reads_eight_bits(device: torch.device) -> None:
    # Numbers that eight bits hold, so that only the way of reading them is tested.
    batch = make_paged_batch(SHAPE, LENS, torch.float32, device)
    k_cache, v_cache = batch.k_cache.to(FP8), batch.v_cache.to(FP8)
    wide = replace(batch, k_cache=k_cache.float(), v_cache=v_cache.float())
    expected = paged_attention_reference(wide.q, wide.k_cache, wide.v_cache, wide.metadata, wide.scale)
    for attend in (paged_attention_reference, paged_attention_triton):
        out = attend(batch.q, k_cache, v_cache, batch.metadata, batch.scale)
        assert out.dtype == batch.q.dtype
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "write",
    [
        kv_write_reference,
        # The interpreter does not round large numbers to the largest, as the device does.
        pytest.param(kv_write_triton, marks=pytest.mark.gpu),
    ],
)
def test_what_is_too_large_is_stored_as_the_largest(device: torch.device, write: Callable[..., None]) -> None:
    if write is kv_write_triton and device.type == "cpu":
        pytest.skip("only the device rounds to the largest")
    k = torch.tensor([1.0, -0.5, 1000.0, -1e30], device=device).view(1, 1, 4)
    caches = [torch.zeros(2, 1, 8, 4, device=device).to(FP8) for _ in range(2)]
    write(k, 2 * k, *caches, torch.tensor([9], device=device))
    assert caches[0][1, 0, 1].float().tolist() == [1.0, -0.5, 448.0, -448.0]
    assert caches[1][1, 0, 1].float().tolist() == [2.0, -1.0, 448.0, -448.0]
    assert caches[0].float().count_nonzero() == 4


def test_turned_keys_are_rounded(device: torch.device) -> None:
    q, k, v = (torch.randn(3, heads, 16).to(device) for heads in (4, 2, 2))
    positions, slots = torch.arange(3, device=device), torch.tensor([5, -1, 20], device=device)
    angles = torch.rand(8, 8, device=device)
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    results = []
    for write in (rotary_write_reference, rotary_write_triton):
        k_cache, v_cache = (torch.zeros(3, 2, 8, 16, device=device).to(FP8) for _ in range(2))
        write(q.clone(), k.clone(), v, None, positions, cos_sin, k_cache, v_cache, slots)
        results.append(torch.stack((k_cache.float(), v_cache.float())))
    reference, ours = results
    if not q.is_cuda:  # the interpreter does not carry where a number is rounded up to a power of two
        ours = torch.where(reference.abs().log2().frac() == 0, reference, ours)
    torch.testing.assert_close(ours, reference, rtol=0.13, atol=0.01)
    assert reference.count_nonzero() > 100

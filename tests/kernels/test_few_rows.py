"""The compiled CPU path does what the torch references do, and no row changes with the rows beside it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch

from kernels.add_rms_norm import add_rms_norm_reference
from kernels.linear import linear, prepare_weight
from kernels.native import few_rows, library
from kernels.paged_attention import AttentionMetadata, paged_attention_reference
from kernels.rms_norm import rms_norm_reference
from kernels.rotary_write import HeadNorms, rotary_write_reference
from kernels.silu_mul import silu_mul_reference

if TYPE_CHECKING:
    from pathlib import Path

NUM_ROWS = [1, 2, 3, 4, 5, 16, 31]
SHAPES = [(1, 32), (7, 64), (8, 576), (123, 96)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def four_bit(num_outputs: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A four-bit weight and what it stands for, in float64."""
    generator = torch.Generator().manual_seed(num_outputs + size)
    shape = (num_outputs, size // few_rows.BLOCK)
    scales = torch.rand(*shape, 1, generator=generator)
    minima = -8 * torch.rand(*shape, 1, generator=generator)
    numbers = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    blocks = torch.cat((scales.view(torch.uint8), minima.view(torch.uint8), numbers), dim=-1)
    halves = torch.cat((numbers & 15, numbers >> 4), dim=-1)
    return blocks, (scales.double() * halves + minima).view(num_outputs, size)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize(("num_outputs", "size"), [*SHAPES, (5, 37)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_bfloat16_products(num_rows: int, num_outputs: int, size: int, has_bias: bool) -> None:
    x, weight = random(num_rows, size), random(num_outputs, size).bfloat16()
    bias = random(num_outputs) if has_bias else None
    result = few_rows.linear_bfloat16(x, weight, bias)
    truth = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(result.double(), truth, rtol=1e-5, atol=1e-5)
    for row in range(num_rows):
        assert torch.equal(few_rows.linear_bfloat16(x[row : row + 1], weight, bias)[0], result[row])


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize(("num_outputs", "size"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_four_bit_products(num_rows: int, num_outputs: int, size: int, has_bias: bool) -> None:
    x, (blocks, weight) = random(num_rows, size), four_bit(num_outputs, size)
    bias = random(num_outputs) if has_bias else None
    result = few_rows.linear_four_bit(x, blocks, bias)
    truth = torch.nn.functional.linear(x.double(), weight, None if bias is None else bias.double())
    torch.testing.assert_close(result.double(), truth, rtol=1e-5, atol=1e-3)
    for row in range(num_rows):
        assert torch.equal(few_rows.linear_four_bit(x[row : row + 1], blocks, bias)[0], result[row])


@pytest.mark.parametrize("num_rows", [1, 33, 100])
@pytest.mark.parametrize(("num_outputs", "size"), [*SHAPES, (4100, 576)])
def test_a_four_bit_weight_is_the_same_for_any_number_of_rows(
    num_rows: int, num_outputs: int, size: int
) -> None:
    x, bias, (blocks, weight) = random(num_rows, size), random(num_outputs), four_bit(num_outputs, size)
    prepared = prepare_weight(weight.bfloat16(), torch.float32, blocks)
    truth = torch.nn.functional.linear(x.double(), weight, bias.double())
    torch.testing.assert_close(linear(x, prepared, bias).double(), truth, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("size", [1, 8, 37, 576])
def test_norms_and_activation(num_rows: int, size: int) -> None:
    x, residual, weight = random(num_rows, size), random(num_rows, size) * 3, random(size)
    torch.testing.assert_close(few_rows.rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5))
    torch.testing.assert_close(
        few_rows.add_rms_norm(x, residual, weight, 1e-5), add_rms_norm_reference(x, residual, weight, 1e-5)
    )
    gate_up = random(num_rows, 2 * size) * 40
    torch.testing.assert_close(few_rows.silu_mul(gate_up), silu_mul_reference(gate_up))


@pytest.mark.parametrize("num_rows", [1, 3, 16])
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("head_dim", [16, 64])
def test_rotary_write(num_rows: int, has_norms: bool, head_dim: int) -> None:
    num_heads, num_kv_heads, block_size = 6, 2, 4
    qkv = random(num_rows, (num_heads + 2 * num_kv_heads) * head_dim)
    norms = HeadNorms(random(head_dim), random(head_dim), 1e-6) if has_norms else None
    slots = torch.randperm(32, generator=torch.Generator().manual_seed(1))[:num_rows]
    slots[0] = -1
    positions, cos_sin = slots.clamp(min=0) * 3, random(100, head_dim)
    results = []
    for write in (few_rows.rotary_write, rotary_write_reference):
        sizes = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in qkv.clone().split(sizes, dim=-1))
        k_cache, v_cache = torch.zeros(2, 8, num_kv_heads, block_size, head_dim)
        turned = write(q, k, v, norms, positions, cos_sin, k_cache, v_cache, slots)
        results.append((q if turned is None else turned, k_cache, v_cache))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("context_lens", [[1], [7, 8, 9], [33, 1, 64, 5]])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 4, 16), (9, 3, 64), (8, 1, 20)])
def test_decode_attention(context_lens: list[int], num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    num_seqs, block_size, max_blocks = len(context_lens), 8, 8
    tables = torch.randperm(num_seqs * max_blocks, generator=torch.Generator().manual_seed(2)).int()
    block_tables = tables.view(num_seqs, max_blocks)
    k_cache, v_cache = random(2, num_seqs * max_blocks, num_kv_heads, block_size, head_dim)
    q = random(num_seqs, num_heads, head_dim)
    metadata = AttentionMetadata(
        query_start=torch.arange(num_seqs + 1, dtype=torch.int32),
        context_lens=torch.tensor(context_lens, dtype=torch.int32),
        block_tables=block_tables,
        query_lens=[1] * num_seqs,
        context_lens_list=context_lens,
        num_decodes=num_seqs,
    )
    result = few_rows.decode_attention(
        q, k_cache, v_cache, metadata.context_lens, block_tables, max(context_lens), head_dim**-0.5
    )
    truth = paged_attention_reference(q, k_cache, v_cache, metadata, head_dim**-0.5)
    torch.testing.assert_close(result, truth, rtol=1e-4, atol=1e-5)


def test_a_nan_stays_in_its_row() -> None:
    x = random(3, 64)
    x[1, 5] = torch.nan
    result = few_rows.silu_mul(few_rows.linear_bfloat16(x, random(16, 64).bfloat16(), None))
    assert result.isnan().any(dim=1).tolist() == [False, True, False]


def test_without_a_compiler_the_references_serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PAGEWIRE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    library.load_library.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert library.load_library() is None
    library.load_library.cache_clear()
    assert "small batches run slower" in caplog.text

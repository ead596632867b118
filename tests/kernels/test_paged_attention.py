from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_checks import assert_means_close, poisoned
from paged_batch import Shape, dense_attention, make_paged_batch

from kernels.arrival import arrival_counters
from kernels.attention_variant import AttentionVariant
from kernels.paged_attention import (
    AttentionMetadata,
    paged_attention,
    paged_attention_reference,
    paged_attention_triton,
)

SHAPES = [
    Shape(num_heads=4, num_kv_heads=2, head_dim=64, block_size=16),
    Shape(num_heads=9, num_kv_heads=3, head_dim=64, block_size=64),
    Shape(num_heads=2, num_kv_heads=2, head_dim=96, block_size=16),
    Shape(num_heads=8, num_kv_heads=1, head_dim=128, block_size=32),
    Shape(num_heads=7, num_kv_heads=1, head_dim=80, block_size=24),
]
BATCHES = {
    "one token": [(1, 1)],
    "decodes at the edges of blocks": [(1, 15), (1, 16), (1, 17), (1, 63), (1, 64), (1, 65)],
    "decode that splits": [(1, 700), (1, 3)],
    "whole prompts": [(5, 5), (64, 64), (33, 33)],
    "chunks after a prefix": [(2, 123), (31, 100), (17, 18)],
    "mixed": [(1, 40), (1, 129), (7, 7), (20, 90)],
    "empty": [],
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def shape_id(shape: Shape) -> str:
    return f"{shape.num_heads}x{shape.num_kv_heads}x{shape.head_dim}b{shape.block_size}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lens", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_matches_dense_attention(
    device: torch.device, shape: Shape, lens: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    if device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices as if they were integers")
    if device.type == "cpu" and dtype == torch.float16 and shape != SHAPES[0]:
        pytest.skip("one shape shows the casts, and the interpreter is slow")
    batch = make_paged_batch(shape, lens, dtype, device)
    with poisoned():
        out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale)
    assert out.shape == batch.q.shape
    assert out.is_contiguous()
    assert_means_close(out, batch.expected)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize(
    "lens",
    [*BATCHES.values(), [(1, 700), (1, 3), (1, 900), (1, 5)]],
    ids=[*BATCHES.keys(), "alternating long and short"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_reference_matches_dense_attention(
    shape: Shape, lens: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    batch = make_paged_batch(shape, lens, dtype, torch.device("cpu"))
    with poisoned():
        out = paged_attention_reference(batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale)
    assert out.is_contiguous()
    assert_means_close(out, batch.expected)


def test_padding_changes_nothing(device: torch.device) -> None:
    """As in a CUDA graph: decodes without context, sequences without query, and bounds that are too large."""
    batch = make_paged_batch(SHAPES[0], BATCHES["mixed"], torch.float32, device)
    metadata = batch.metadata
    q = torch.full((44, *batch.q.shape[1:]), torch.nan, device=device)
    context_lens = torch.zeros(7, dtype=torch.int32, device=device)
    block_tables = metadata.block_tables.new_zeros(7, metadata.block_tables.shape[1])
    query_start = torch.full((8,), 31, dtype=torch.int32, device=device)
    for padded, values in (
        (q, batch.q),
        (context_lens, metadata.context_lens),
        (block_tables, metadata.block_tables),
        (query_start, metadata.query_start + 2),
    ):
        padded[:2], padded[4 : len(values) + 2] = values[:2], values[2:]
    padded_metadata = AttentionMetadata(
        query_start, context_lens, block_tables, [1] * 4 + [40] * 3, [200] * 7, 4
    )
    out = paged_attention_triton(q, batch.k_cache, batch.v_cache, padded_metadata, batch.scale)
    assert_means_close(torch.cat((out[:2], out[4:31])), batch.expected)


@pytest.mark.parametrize("lens", [[(2, 1300), (1, 30), (60, 1030)], [(1, 4200), (1, 513)], [(3, 3)]], ids=str)
@pytest.mark.parametrize("num_heads", [1, 3])
def test_long_contexts_of_short_queries_are_split(
    device: torch.device, num_heads: int, lens: list[tuple[int, int]]
) -> None:
    """In the last part of the 1,030 tokens, 54 of the 60 queries see none."""
    batch = make_paged_batch(Shape(num_heads, 1, 64, 16), lens, torch.float32, device)
    metadata = replace(batch.metadata, num_decodes=0, context_lens_list=[1 << 16] * len(lens))
    with poisoned():
        out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, metadata, batch.scale)
    assert_means_close(out, batch.expected)
    assert not arrival_counters(out.device).any()


@pytest.mark.parametrize("num_heads", [1, 3])
def test_padding_has_no_share(device: torch.device, num_heads: int) -> None:
    """As in a CUDA graph, whose last sequences have neither query nor context."""
    lens = [(0, 0), (5, 1500), (0, 0), (0, 0)]
    batch = make_paged_batch(Shape(num_heads, 1, 64, 16), lens, torch.float32, device)
    metadata = replace(batch.metadata, num_decodes=0, context_lens_list=[1 << 16] * len(lens))
    out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, metadata, batch.scale)
    assert_means_close(out, batch.expected)


@pytest.mark.parametrize("context_len", [1, 300, 2000])
def test_decodes_leave_the_counters_at_zero(device: torch.device, context_len: int) -> None:
    batch = make_paged_batch(Shape(6, 2, 64, 16), [(1, context_len), (1, 0)], torch.float32, device)
    metadata = replace(batch.metadata, context_lens_list=[1 << 16] * 2)
    for _ in range(2):
        out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, metadata, batch.scale)
        assert_means_close(out[:1], batch.expected[:1])
        assert not out[1].any()
        assert not arrival_counters(out.device).any()


def test_long_queries_have_a_grid_by_sequence(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """So they have from 16,384 rows on; here all are long."""
    monkeypatch.setattr("kernels.launch._LONG_QUERY_ROWS", 1)
    lens = [(90, 90), (0, 5), (1, 70), (200, 300)]
    batch = make_paged_batch(SHAPES[0], lens, torch.float32, device)
    metadata = replace(batch.metadata, num_decodes=0)
    with poisoned():
        out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, metadata, batch.scale)
    assert_means_close(out, batch.expected)


def test_many_sequences_are_found(device: torch.device) -> None:
    """More than a program looks at together, some of them without a query."""
    lens = [(index % 4, index % 4 + 5) for index in range(150)]
    batch = make_paged_batch(SHAPES[0], lens, torch.float32, device)
    metadata = replace(batch.metadata, num_decodes=0)
    out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, metadata, batch.scale)
    assert_means_close(out, batch.expected)


def make_variant(name: str, num_heads: int, device: torch.device) -> AttentionVariant:
    sinks = torch.linspace(-2.0, 3.0, num_heads, device=device)
    return {
        "window": AttentionVariant(window=20),
        "window of one": AttentionVariant(window=1),
        "softcap": AttentionVariant(softcap=1.5),
        "sinks": AttentionVariant(sinks=sinks),
        "all": AttentionVariant(window=100, softcap=2.0, sinks=sinks),
    }[name]


VARIANTS = ["window", "window of one", "softcap", "sinks", "all"]
VARIANT_BATCH = [(1, 700), (1, 7), (1, 129), (7, 7), (20, 90), (70, 130), (33, 33)]


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4]], ids=shape_id)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_match_dense_attention(device: torch.device, name: str, shape: Shape) -> None:
    variant = make_variant(name, shape.num_heads, device)
    batch = make_paged_batch(shape, VARIANT_BATCH, torch.float32, device, variant=variant)
    with poisoned():
        out = paged_attention_triton(
            batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale, variant
        )
    assert_means_close(out, batch.expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variants_match_dense_attention_on_a_gpu(name: str, head_dim: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    shape = Shape(num_heads=8, num_kv_heads=2, head_dim=head_dim, block_size=64)
    variant = make_variant(name, shape.num_heads, device)
    batch = make_paged_batch(shape, [*VARIANT_BATCH, (2100, 2150)], dtype, device, variant=variant)
    with poisoned():
        out = paged_attention_triton(
            batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale, variant
        )
    assert_means_close(out, batch.expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4]], ids=shape_id)
@pytest.mark.parametrize("name", VARIANTS)
def test_reference_of_variants_matches_dense_attention(name: str, shape: Shape, dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    variant = make_variant(name, shape.num_heads, device)
    batch = make_paged_batch(shape, VARIANT_BATCH, dtype, device, variant=variant)
    with poisoned():
        out = paged_attention(batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale, variant)
    assert_means_close(out, batch.expected)


def test_the_cpu_takes_the_reference() -> None:
    batch = make_paged_batch(SHAPES[0], BATCHES["mixed"], torch.float32, torch.device("cpu"))
    arguments = (batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale)
    assert torch.equal(paged_attention(*arguments), paged_attention_reference(*arguments))


def test_a_sequence_is_not_touched_by_its_neighbours_nan() -> None:
    batch = make_paged_batch(SHAPES[0], [(1, 40), (1, 20)], torch.float32, torch.device("cpu"))
    batch.v_cache[batch.metadata.block_tables[0, 0]] = torch.nan
    out = paged_attention_reference(batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale)
    assert_means_close(out[1:], batch.expected[1:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_long_queries_take_the_large_tiles(head_dim: int) -> None:
    shape = Shape(num_heads=8, num_kv_heads=1, head_dim=head_dim, block_size=16)
    batch = make_paged_batch(shape, [(1, 40), (2100, 2150)], torch.bfloat16, torch.device("cuda"))
    with poisoned():
        out = paged_attention_triton(batch.q, batch.k_cache, batch.v_cache, batch.metadata, batch.scale)
    assert_means_close(out, batch.expected)


@pytest.mark.parametrize("query_len", [1, 3])
def test_reads_beyond_two_to_the_31_elements(device: torch.device, query_len: int) -> None:
    num_kv_heads, block_size, head_dim, context_len = 2, 16, 64, 20
    num_blocks = 2**31 // (num_kv_heads * block_size * head_dim) + 2
    cache = torch.empty((num_blocks, num_kv_heads, block_size, head_dim), dtype=torch.float16, device=device)
    tokens = torch.randn(context_len, num_kv_heads, head_dim, dtype=torch.float16)
    blocks = [num_blocks - 1, num_blocks - 2]
    for token in range(context_len):
        cache[blocks[token // block_size], :, token % block_size] = tokens[token].to(device)
    q = torch.randn(query_len, 4, head_dim, dtype=torch.float16)
    metadata = AttentionMetadata(
        query_start=torch.tensor([0, query_len], dtype=torch.int32, device=device),
        context_lens=torch.tensor([context_len], dtype=torch.int32, device=device),
        block_tables=torch.tensor([blocks], dtype=torch.int32, device=device),
        query_lens=[query_len],
        context_lens_list=[context_len],
        num_decodes=int(query_len == 1),
    )
    out = paged_attention_triton(q.to(device), cache, cache, metadata, 0.125)
    assert_means_close(out, dense_attention(q, tokens, tokens, 0.125))

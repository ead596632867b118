"""Which program of split prefill computes what."""

from __future__ import annotations

import itertools

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.launch import PREFILL_MIN_SPLIT_TOKENS
from kernels.prefill_attention import MAX_SPLIT_SEQS, find_share

BLOCK_Q = 16


@triton.jit
def note_share_kernel(query_start_ptr, context_lens_ptr, out_ptr, num_seqs, target, BLOCK_Q: tl.constexpr):
    program = tl.program_id(0)
    seq, tile, share, num_shares, place = find_share(
        query_start_ptr, context_lens_ptr, num_seqs, program, target, BLOCK_Q
    )
    tl.store(out_ptr + program * 5, seq)
    tl.store(out_ptr + program * 5 + 1, tile)
    tl.store(out_ptr + program * 5 + 2, share)
    tl.store(out_ptr + program * 5 + 3, num_shares)
    tl.store(out_ptr + program * 5 + 4, place)


def shares(
    lens: list[tuple[int, int]], target: int, num_programs: int, device: torch.device
) -> list[list[int]]:
    """What `find_share` returns to each program; `lens` has each sequence's tokens of query and context."""
    query_start = torch.tensor(
        list(itertools.accumulate((query_len for query_len, _ in lens), initial=7)),
        dtype=torch.int32,
        device=device,
    )
    context_lens = torch.tensor([context_len for _, context_len in lens], dtype=torch.int32, device=device)
    out = torch.full((num_programs, 5), -1, dtype=torch.int32, device=device)
    note_share_kernel[(num_programs,)](query_start, context_lens, out, len(lens), target, BLOCK_Q)
    rows: list[list[int]] = out.tolist()
    return rows


def num_tiles(query_len: int) -> int:
    return -(-query_len // BLOCK_Q)


SEQUENCES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 3) | st.integers(0, 1 << 20)).map(
        lambda lens: (lens[0], lens[0] + lens[1])
    ),
    min_size=1,
    max_size=8,
) | st.just([(3, 9)] * (MAX_SPLIT_SEQS - 1) + [(40, 1 << 20)])


@settings(max_examples=40)
@given(lens=SEQUENCES, target=st.integers(1, 40))
def test_each_share_of_each_tile_has_one_program(
    device: torch.device, lens: list[tuple[int, int]], target: int
) -> None:
    num_tiles_of = [num_tiles(query_len) for query_len, _ in lens]
    found = iter(shares(lens, target, max(target, sum(num_tiles_of)) + 1, device))
    places: list[int] = []
    for seq, (_, context_len) in enumerate(lens):
        tiles = range(num_tiles_of[seq])
        first = [next(found) for _ in tiles]
        assert len({num_shares for *_, num_shares, _ in first}) <= 1
        for num_shares in [row[3] for row in first[:1]]:
            assert num_shares == 1 or context_len // num_shares >= PREFILL_MIN_SPLIT_TOKENS
            rows = first + [next(found) for _ in tiles for _ in range(1, num_shares)]
            assert [row[:4] for row in rows] == [
                [seq, tile, share, num_shares] for share in range(num_shares) for tile in tiles
            ]
            assert all(place == first[tile][4] for _, tile, _, _, place in rows)
            places += (first[tile][4] + share for tile in tiles for share in range(num_shares))
    assert sorted(places) == list(range(len(places)))
    left = list(found)
    assert left
    assert all(share >= num_shares for _, _, share, num_shares, _ in left)


@pytest.mark.parametrize(
    ("lens", "num_shares"),
    [
        ([(32, 60_000), (5, 300), (1, 30_000)], [12, 1, 6]),
        ([(64, 65_536)], [8]),
        ([(0, 0), (16, 1500), (0, 0)], [2]),
        ([(16 * 20, 60_000), (16 * 13, 90_000)], [1, 1]),
    ],
)
def test_longer_contexts_get_more_programs(
    device: torch.device, lens: list[tuple[int, int]], num_shares: list[int]
) -> None:
    found = shares(lens, 33, 34, device)
    assert [each for _, tile, share, each, _ in found if tile == share == 0] == num_shares

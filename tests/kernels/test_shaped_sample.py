from __future__ import annotations

import pytest
import torch
from sampling_tables import make_state, moved

from kernels.sample import sample_reference
from kernels.sampling_state import FILTERED, TILE, SamplingState
from kernels.shaped_sample import shaped_sample, shaped_sample_reference, shaped_sample_triton

ALL_FLAGS = 31


def check(device: torch.device, state: SamplingState, logits: torch.Tensor, rows: torch.Tensor) -> None:
    """Compare tokens, and what was written, with the CPU's path; its rows hold no padding."""
    ours, theirs = moved(state, device), moved(state, torch.device("cpu"))
    is_row = rows >= 0
    expected = shaped_sample_reference(logits[is_row], rows[is_row], theirs)
    actual = shaped_sample_triton(logits.to(device), rows.to(device), ours)
    assert actual.cpu()[is_row].tolist() == expected.tolist()
    assert torch.equal(ours.token_table.cpu(), theirs.token_table)
    assert torch.equal(ours.num_tokens.cpu(), theirs.num_tokens)
    assert torch.equal(ours.counts.cpu(), theirs.counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [3, 300, 2 * TILE + 77])
def test_the_cpu_chooses_the_same(device: torch.device, vocab: int, dtype: torch.dtype) -> None:
    state = make_state(9, vocab, flags=ALL_FLAGS, seed=vocab)
    logits = (3 * torch.randn(9, vocab, generator=torch.Generator().manual_seed(vocab))).to(dtype)
    check(device, state, logits, torch.tensor([5, 0, -1, 8, 3, 1, 2, 7, 6]))


def test_rows_that_ask_for_nothing_get_what_sample_gives(device: torch.device) -> None:
    vocab = TILE + 9
    state = make_state(6, vocab, flags=0)
    logits, rows = torch.randn(6, vocab), torch.randperm(6)
    tables = moved(state, torch.device("cpu"))
    expected = sample_reference(
        logits, rows, tables.temperatures, tables.keys, tables.num_tokens, tables.token_table
    )
    actual = shaped_sample_triton(logits.to(device), rows.to(device), moved(state, device))
    assert actual.tolist() == expected.tolist()
    assert shaped_sample(logits, rows, moved(state, torch.device("cpu"))).tolist() == expected.tolist()


def test_rows_without_numbers_or_tokens_fail_alone(device: torch.device) -> None:
    vocab = TILE + 5
    state = make_state(8, vocab, flags=0)
    state.flags.copy_(torch.tensor([0, 0, 0, 0, 2, 2, 2, 10]))  # the others have masks, the last filters
    state.masks.fill_(-1)
    state.masks[6] = 0
    logits = torch.randn(8, vocab)
    logits[[0, 4], vocab - 1] = torch.nan
    logits[[1, 5], 3] = torch.inf
    logits[2] = -torch.inf
    check(device, state, logits, torch.arange(8))
    token_ids = shaped_sample_triton(logits.to(device), torch.arange(8, device=device), moved(state, device))
    assert [token for token in token_ids.tolist() if token < 0] == [-1, -1, -1, -1, -1, -2]


def test_zeros_of_both_signs_tie(device: torch.device) -> None:
    state = make_state(16, 2, flags=0)
    state.temperatures.fill_(1.0)
    state.flags.fill_(FILTERED.value)
    state.filters.copy_(torch.tensor((1.0, 1.0, 0.0)))
    logits, rows = torch.tensor([[0.0, -0.0]]).expand(16, 2).contiguous(), torch.arange(16)
    token_ids = shaped_sample_triton(logits.to(device), rows.to(device), moved(state, device))
    assert set(token_ids.tolist()) == {0, 1}


def test_no_row_is_no_work(device: torch.device) -> None:
    state = moved(make_state(2, 40, flags=ALL_FLAGS), device)
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    assert shaped_sample_triton(torch.empty(0, 40, device=device), nothing, state).tolist() == []

from __future__ import annotations

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_tables import make_state, moved

from kernels.find_threshold import find_threshold_triton
from kernels.sampling_state import FILTERED, GROUP, TILE, order_key_reference

Filters = tuple[int, float, float]


def find(
    device: torch.device, logits: torch.Tensor, filters: list[Filters], temperature: float, num_passes: int
) -> list[list[bool]]:
    """Which tokens pass, of one row for each of the filters."""
    num_seqs, vocab = logits.shape
    state = make_state(num_seqs, vocab, flags=0)
    state.flags.fill_(FILTERED.value)
    state.filters.copy_(torch.tensor(filters))
    state.temperatures.fill_(temperature)
    num_tiles = triton.cdiv(vocab, TILE)
    padded = torch.full((num_seqs, num_tiles * TILE), -torch.inf)
    padded[:, :vocab] = logits.float()
    tiled = padded.view(num_seqs, num_tiles, TILE)
    peaks = tiled.amax(-1)
    weights = ((tiled - peaks.clamp(min=-3e38)[:, :, None]) / temperature).exp().sum(-1)
    thresholds = find_threshold_triton(
        logits.to(device),
        torch.full((num_seqs, vocab), torch.nan, device=device),
        torch.arange(num_seqs, device=device),
        moved(state, device),
        peaks.to(device),
        tiled.unflatten(-1, (TILE // GROUP, GROUP)).amax(-1).to(device),
        weights.to(device),
        num_passes,
    )
    kept: list[list[bool]] = (order_key_reference(logits.float()) >= thresholds.cpu()[:, None]).tolist()
    return kept


def expected_tokens(logits: torch.Tensor, filters: Filters, temperature: float) -> list[bool]:
    """In float64, one token after another; tokens that tie at an edge stay together."""
    top_k, top_p, min_p = filters
    values = logits.double()
    weights = ((values - values.amax()) / temperature).exp()
    order = values.argsort(descending=True).tolist()
    kept = [token for token in order if weights[token] >= min_p]
    if top_k:
        kept = [token for token in kept if values[token] >= values[kept[min(top_k, len(kept)) - 1]]]
    if top_p < 1:
        total, reached = sum(float(weights[token]) for token in kept), 0.0
        for edge in kept:
            reached += float(weights[edge])
            if reached >= top_p * total:
                kept = [token for token in kept if values[token] >= values[edge]]
                break
    return [token in set(kept) for token in range(len(values))]


FILTERS: list[Filters] = [(1, 1.0, 0.0), (7, 1.0, 0.0), (0, 0.83, 0.0), (0, 1.0, 0.07), (40, 0.61, 0.013)]


@pytest.mark.parametrize("num_passes", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_passes(device: torch.device, dtype: torch.dtype, num_passes: int) -> None:
    """Whether all passes are made by all tiles, or most by one program; bfloat16 has many ties."""
    logits = 2 * torch.randn(len(FILTERS), TILE + 900, generator=torch.Generator().manual_seed(3))
    logits = logits.to(dtype)
    kept = find(device, logits, FILTERS, 0.8, num_passes)
    for row, filters in enumerate(FILTERS):
        assert kept[row] == expected_tokens(logits[row], filters, 0.8), filters


@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_ties_stay_together_and_zeros_are_equal(device: torch.device, top_k: int) -> None:
    logits = torch.tensor([[2.0, -0.0, 0.0, 2.0, -0.0, -3.0, 1e-30, -torch.inf]])
    kept = find(device, logits, [(top_k, 1.0, 0.0)], 1.0, 1)[0]
    assert kept == expected_tokens(logits[0], (top_k, 1.0, 0.0), 1.0)


@given(
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False), min_size=1, max_size=12),
    st.integers(1, 12),
)
@settings(deadline=None, max_examples=15, derandomize=True)
def test_top_k_of_any_numbers(values: list[float], top_k: int) -> None:
    if not triton.knobs.runtime.interpret:
        pytest.skip("for the interpreter; other tests run on the GPU")
    logits = torch.tensor([values])
    kept = find(torch.device("cpu"), logits, [(top_k, 1.0, 0.0)], 1.0, 1)[0]
    edge = logits[0].sort(descending=True).values[min(top_k, len(values)) - 1]
    assert kept == (logits[0] >= edge).tolist()

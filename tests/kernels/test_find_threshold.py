from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_tables import make_state, moved

from kernels.find_threshold import find_threshold_triton
from kernels.sampling_state import FILTERED, GROUP, TILE, order_key_reference
from kernels.threshold_search import TOP_K, TOP_K_FIRST, place_pivots

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """In float64, by a sort; tokens that tie at an edge stay together."""
    top_k, top_p, min_p = filters
    values = logits.double()
    weights = ((values - values.amax()) / temperature).exp()
    is_kept = values.isfinite() & (weights >= min_p)
    if top_k:
        kept = values[is_kept].sort(descending=True).values
        is_kept &= values >= kept[min(top_k, len(kept)) - 1]
    if top_p < 1:
        kept = values[is_kept].sort(descending=True).values
        reached = ((kept - kept[0]) / temperature).exp().cumsum(0)
        is_kept &= values >= kept[(reached < top_p * reached[-1]).sum()]
    tokens: list[bool] = is_kept.tolist()
    return tokens


FILTERS: list[Filters] = [(1, 1.0, 0.0), (7, 1.0, 0.0), (0, 0.83, 0.0), (0, 1.0, 0.07), (40, 0.61, 0.013)]


@pytest.mark.parametrize("num_passes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_passes(device: torch.device, dtype: torch.dtype, num_passes: int) -> None:
    """Whether all passes are made by all tiles, or most by one program; bfloat16 has many ties."""
    logits = 2 * torch.randn(len(FILTERS), TILE + 900, generator=torch.Generator().manual_seed(3))
    logits = logits.to(dtype)
    kept = find(device, logits, FILTERS, 0.8, num_passes)
    for row, filters in enumerate(FILTERS):
        assert kept[row] == expected_tokens(logits[row], filters, 0.8), filters


VOCAB = 2 * TILE + 77
LOGITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flat": lambda x: x,
    "peaked": lambda x: torch.where(x.abs() > 3.2, x.abs() + 9, 3 * x),
    "wide": lambda x: 200 * x,
    "as wide as float32": lambda x: 2e37 * x,
    "narrow": lambda x: 1e-3 * x,
    "subnormal": lambda x: 1e-39 * x,
    "few values": lambda x: (2 * x).round(),
    "one value": lambda x: torch.zeros_like(x),
    "high ones together": lambda x: torch.cat([x[:700] * 0.2 + 8, x[700:]]),
    "half of them masked": lambda x: torch.where(x < 0, -torch.inf, x),
}
MANY_FILTERS: list[Filters] = [
    (50, 1.0, 0.0),
    (0, 0.9, 0.0),
    (50, 0.9, 0.05),
    (0, 0.8, 0.05),
    (1500, 0.5, 0.0),
    (VOCAB + 9, 0.97, 0.0),
    (300, 1.0, 0.2),
    (0, 1e-6, 0.0),
    (0, 0.999, 0.0),
]


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("num_passes", [1, 3])
def test_what_passes_of_all_kinds_of_logits(device: torch.device, name: str, num_passes: int) -> None:
    """The three steps of a search meet tiles that keep their logits, tiles that cannot, and wide ranges."""
    logits = LOGITS[name](torch.randn(VOCAB, generator=torch.Generator().manual_seed(7)))
    kept = find(device, logits.expand(len(MANY_FILTERS), -1), MANY_FILTERS, 0.8, num_passes)
    for row, filters in enumerate(MANY_FILTERS):
        assert kept[row] == expected_tokens(logits, filters, 0.8), filters


@triton.jit
def place_kernel(pivots_ptr, low, high, peak, N: tl.constexpr):
    """Store the pivots of a first pass, and of a later one."""
    low, high = low.to(tl.int64), high.to(tl.int64)
    places = tl.arange(0, N)
    temperature = 1.0 + 0.0 * peak
    first = place_pivots(TOP_K_FIRST, low, high, peak, temperature, N)
    tl.store(pivots_ptr + places, first)
    tl.store(pivots_ptr + N + places, place_pivots(TOP_K, low, high, peak, temperature, N))


NUMBERS = st.floats(-(2.0**127), 2.0**127, width=32)


@given(NUMBERS, NUMBERS, st.integers(0, 3))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_pivots_ascend_and_divide_the_range(one: float, other: float, distance: int) -> None:
    """So a search ends, also between neighbours, where `distance` is not 0."""
    if not triton.knobs.runtime.interpret:
        pytest.skip("for the interpreter; other tests run on the GPU")
    low, peak = order_key_reference(torch.tensor([one, other])).sort().values.tolist()
    peak = low + distance if distance else peak
    high = peak + 1
    key = torch.tensor([peak], dtype=torch.int32)
    (peak_value,) = (key ^ ((key >> 31) & 0x7FFFFFFF)).view(torch.float32).tolist()
    pivots = torch.empty(2, 16, dtype=torch.int64)
    place_kernel[(1,)](pivots, low, high, peak_value, N=16)
    for keys in pivots.tolist():
        assert keys == sorted(keys)
        assert keys[0] == low
        assert keys[-1] <= high
    assert high - low < 2 or any(low < key < high for key in pivots[1].tolist())


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

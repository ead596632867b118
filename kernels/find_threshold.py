"""Find the least logit that min_p, top_k and top_p let pass, without a sort.

    weight(x) = exp((x - peak) / temperature)
    min_p:  the floor is peak + temperature * log(min_p)
    top_k:  the largest t with at least top_k logits >= t, or the floor where fewer are above it
    top_p:  the largest t with weights of logits >= t that sum to top_p of those that the others let pass

Both are one search: for the largest t whose sum reaches a target, where a logit counts 1 or its weight. It
goes over keys, integers in the order of the logits, so that it ends, and so that ties stay together. A pass
over the logits sums what lies in the range of keys and not below each of 16 pivots; the range between two
pivots is the next pass's. The first pivots lie below the peak at growing distances, where language models
have their tokens; the others divide the range evenly. The search ends early where the sum is met exactly, or
where all logits of the range are equal.

Most rows need 2 to 5 passes a filter. `NUM_PASSES` launches, in which all tiles of the vocabulary work at the
same time and rows that are done leave at once, are followed by one that goes on with a program a sequence for
as long as it takes. A pass reads the logits once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.launch import architecture, search_launch
from kernels.sampling_state import ADJUSTED, FILTERED, TILE, SamplingState
from kernels.threshold_search import (
    DONE,
    HIGHEST_INT,
    LOWEST_INT,
    STATE,
    begin_search,
    load_peak,
    narrow_range,
    place_pivots,
    store_state,
    sum_tile,
    take_in,
)

NUM_PIVOTS = 16
NUM_PASSES = 8


@triton.jit
def search_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    filters_ptr,
    peaks_ptr,
    state_ptr,
    sums_ptr,
    extremes_ptr,
    new_state_ptr,
    new_sums_ptr,
    new_extremes_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    TILE: tl.constexpr,
    SUB: tl.constexpr,
    N: tl.constexpr,
    IS_FIRST: tl.constexpr,
):
    """One pass: one program for each (tile, sequence). All programs of a sequence come to the same state."""
    tile = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    if (flags & FILTERED) == 0:
        return
    peak = load_peak(peaks_ptr + seq * NUM_TILES, NUM_TILES, BLOCK_TILES)
    if (peak == float("inf")) | (peak == float("-inf")):
        return
    temperature = tl.load(temperatures_ptr + row)
    if IS_FIRST:
        phase, low, high, above, target = begin_search(filters_ptr, row, peak, temperature)
    else:
        phase, low, high, above, target = take_in(
            state_ptr + seq * STATE,
            sums_ptr + seq * NUM_TILES * N,
            extremes_ptr + seq * NUM_TILES * 2,
            filters_ptr,
            row,
            peak,
            NUM_TILES,
            BLOCK_TILES,
            N,
        )
    pivots = place_pivots(phase, low, high, peak, temperature, N)
    if tile == 0:
        store_state(new_state_ptr + seq * STATE, phase, low, high, above, target, pivots, N)
    if phase == DONE:
        return
    sums, least, most = sum_tile(
        logits_ptr,
        adjusted_ptr,
        (flags & ADJUSTED) != 0,
        seq,
        tile,
        logits_stride,
        phase,
        low,
        high,
        pivots,
        peak,
        temperature,
        VOCAB,
        TILE,
        SUB,
        N,
    )
    out = seq * NUM_TILES + tile
    tl.store(new_sums_ptr + out * N + tl.arange(0, N), sums)
    tl.store(new_extremes_ptr + out * 2, least)
    tl.store(new_extremes_ptr + out * 2 + 1, most)


@triton.jit
def finish_search_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    filters_ptr,
    peaks_ptr,
    state_ptr,
    sums_ptr,
    extremes_ptr,
    thresholds_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    TILE: tl.constexpr,
    SUB: tl.constexpr,
    N: tl.constexpr,
):
    """Passes until the threshold is found: one program a sequence."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    if (flags & FILTERED) == 0:
        return
    peak = load_peak(peaks_ptr + seq * NUM_TILES, NUM_TILES, BLOCK_TILES)
    if (peak == float("inf")) | (peak == float("-inf")):
        return
    temperature = tl.load(temperatures_ptr + row)
    top_p = tl.load(filters_ptr + row * 3 + 1)
    phase, low, high, above, target = take_in(
        state_ptr + seq * STATE,
        sums_ptr + seq * NUM_TILES * N,
        extremes_ptr + seq * NUM_TILES * 2,
        filters_ptr,
        row,
        peak,
        NUM_TILES,
        BLOCK_TILES,
        N,
    )
    while phase != DONE:
        pivots = place_pivots(phase, low, high, peak, temperature, N)
        sums = tl.zeros([N], dtype=tl.float64)
        least = HIGHEST_INT
        most = LOWEST_INT
        for tile in range(NUM_TILES):
            tile_sums, tile_least, tile_most = sum_tile(
                logits_ptr,
                adjusted_ptr,
                (flags & ADJUSTED) != 0,
                seq,
                tile,
                logits_stride,
                phase,
                low,
                high,
                pivots,
                peak,
                temperature,
                VOCAB,
                TILE,
                SUB,
                N,
            )
            sums += tile_sums.to(tl.float64)
            least = tl.minimum(least, tile_least)
            most = tl.maximum(most, tile_most)
        phase, low, high, above, target = narrow_range(
            phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N
        )
    tl.store(thresholds_ptr + seq, low.to(tl.int32))


def find_threshold_triton(
    logits: torch.Tensor,
    adjusted: torch.Tensor,
    rows: torch.Tensor,
    state: SamplingState,
    peaks: torch.Tensor,
    num_passes: int = NUM_PASSES,
) -> torch.Tensor:
    """Launch the kernels.

    Args:
        logits: [num_seqs, vocab] of any float type.
        adjusted: [num_seqs, vocab] float32: what the rows that are ADJUSTED have instead.
        rows: [num_seqs] int64; -1 is padding.
        state: of the rows.
        peaks: [num_seqs, num_tiles] float32 of tiles of `TILE` tokens; not finite where nothing can be drawn.
        num_passes: by all tiles at once; at least 1.

    Returns:
        [num_seqs] int32: the least `order_key` that passes. Rows that are not FILTERED are not computed.
    """
    num_seqs, vocab = logits.shape
    num_tiles = triton.cdiv(vocab, TILE)
    device = logits.device
    # Two of each, none a part of another: all addresses are aligned, so there is one kernel to compile.
    states, sums, extremes = (
        [torch.empty((num_seqs, *shape), dtype=dtype, device=device) for _ in range(2)]
        for shape, dtype in (
            ((STATE.value,), torch.float64),
            ((num_tiles, NUM_PIVOTS), torch.float32),
            ((num_tiles, 2), torch.int32),
        )
    )
    thresholds = torch.empty(num_seqs, dtype=torch.int32, device=device)
    launch = search_launch(architecture(device))
    inputs = (logits, adjusted, rows, state.flags, state.temperatures, state.filters, peaks)
    shape = {
        "VOCAB": vocab,
        "NUM_TILES": num_tiles,
        "BLOCK_TILES": triton.next_power_of_2(num_tiles),
        "TILE": TILE,
        "SUB": launch.block,
        "N": NUM_PIVOTS,
    }
    # A pass reads what the last one wrote, and writes elsewhere: others of its programs still read.
    for index in range(num_passes):
        old, new = (index + 1) % 2, index % 2
        search_kernel[(num_tiles, num_seqs)](
            *inputs,
            states[old],
            sums[old],
            extremes[old],
            states[new],
            sums[new],
            extremes[new],
            logits.stride(0),
            **shape,
            IS_FIRST=index == 0,
            num_warps=launch.num_warps,
        )
    last = (num_passes - 1) % 2
    finish_search_kernel[(num_seqs,)](
        *inputs,
        states[last],
        sums[last],
        extremes[last],
        thresholds,
        logits.stride(0),
        **shape,
        num_warps=2 * launch.num_warps,
    )
    return thresholds

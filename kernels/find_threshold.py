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
from kernels.sampling_state import ADJUSTED, FILTERED, TILE, SamplingState, load_logits, order_key

NUM_PIVOTS = 16
NUM_PASSES = 8

# Phases of a row; the first pass of a filter has other pivots.
DONE = tl.constexpr(0)
TOP_K_FIRST = tl.constexpr(1)
TOP_K = tl.constexpr(2)
TOP_P_FIRST = tl.constexpr(3)
TOP_P = tl.constexpr(4)

LOWEST = tl.constexpr(-2139095040)
"""Key of the lowest finite number."""
HIGHEST_INT = tl.constexpr(2147483647)
LOWEST_INT = tl.constexpr(-2147483648)

# Entries of a row's state, float64: integers of 32 bits are exact in it.
PHASE = tl.constexpr(0)
LOW = tl.constexpr(1)
HIGH = tl.constexpr(2)
ABOVE = tl.constexpr(3)
TARGET = tl.constexpr(4)
PIVOTS = tl.constexpr(16)
STATE = tl.constexpr(32)


@triton.jit
def begin_search(filters_ptr, row, peak, temperature):
    """Return a healthy row's phase, range of keys [low, high), sum above it and target."""
    top_k = tl.load(filters_ptr + row * 3)
    top_p = tl.load(filters_ptr + row * 3 + 1)
    min_p = tl.load(filters_ptr + row * 3 + 2)
    floor = order_key(peak + temperature * tl.log(tl.where(min_p > 0, min_p, 1.0)))
    low = tl.where(min_p > 0, tl.maximum(floor, LOWEST), LOWEST).to(tl.int64)
    after = tl.where(top_p < 1, TOP_P_FIRST, DONE)
    phase = tl.where(top_k > 0, TOP_K_FIRST, after)
    return phase, low, order_key(peak).to(tl.int64) + 1, 0.0 * top_k.to(tl.float64), top_k.to(tl.float64)


@triton.jit
def place_pivots(phase, low, high, peak, temperature, N: tl.constexpr):
    """Return N keys, ascending from `low`, below `high` or equal to it."""
    index = tl.arange(0, N)
    even = low + (high - low) * index // N
    steps = (N - index).to(tl.float32)
    scale = tl.where(phase == TOP_P_FIRST, temperature, 1.0)
    near = order_key(peak - scale * (0.08 * steps * steps)).to(tl.int64)
    near = tl.minimum(tl.maximum(near, low), high)
    near = tl.where(index == 0, low, near)
    is_first = (phase == TOP_K_FIRST) | (phase == TOP_P_FIRST)
    return tl.where(is_first, near, even)


@triton.jit
def narrow_range(phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N: tl.constexpr):
    """Take in a pass: the sums from each pivot on within the range, its least key and its largest."""
    index = tl.arange(0, N)
    reached = above + sums
    target = tl.where(phase == TOP_P_FIRST, top_p * tl.sum(tl.where(index == 0, reached, 0.0), 0), target)
    place = tl.sum((reached >= target).to(tl.int32), 0) - 1
    pivot = tl.sum(tl.where(index == place, pivots, 0), 0)
    is_last = place == N - 1
    next_pivot = tl.where(is_last, high, tl.sum(tl.where(index == place + 1, pivots, 0), 0))
    next_above = tl.where(is_last, above, tl.sum(tl.where(index == place + 1, reached, 0.0), 0))
    is_met = tl.sum(tl.where(index == place, reached, 0.0), 0) == target
    is_unreached = place < 0
    is_tie = least == most
    is_found = is_unreached | is_tie | is_met | (next_pivot - pivot <= 1)
    found = tl.where(is_unreached, low, tl.where(is_tie, least.to(tl.int64), pivot))

    is_top_k = phase <= TOP_K
    after = tl.where(is_top_k & (top_p < 1), TOP_P_FIRST, DONE)
    phase = tl.where(is_found, after, tl.where(is_top_k, TOP_K, TOP_P))
    low = tl.where(is_found, found, pivot)
    high = tl.where(is_found, order_key(peak).to(tl.int64) + 1, next_pivot)
    above = tl.where(is_found, 0.0, next_above)
    return phase, low, high, above, target


@triton.jit
def sum_tile(
    logits_ptr,
    adjusted_ptr,
    is_adjusted,
    seq,
    tile,
    logits_stride,
    phase,
    low,
    high,
    pivots,
    peak,
    temperature,
    VOCAB: tl.constexpr,
    TILE: tl.constexpr,
    SUB: tl.constexpr,
    N: tl.constexpr,
):
    """Go over one tile; returns its sums [N] float32, its least key in the range and its largest."""
    low = low.to(tl.int32)
    high = high.to(tl.int32)
    edges = pivots.to(tl.int32)
    is_counted = phase <= TOP_K
    sums = tl.zeros([N, SUB], dtype=tl.float32)
    least = tl.full([SUB], HIGHEST_INT, dtype=tl.int32)
    most = tl.full([SUB], LOWEST_INT, dtype=tl.int32)
    for start in tl.static_range(0, TILE, SUB):
        tokens = tile * TILE + start + tl.arange(0, SUB)
        x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
        key = order_key(x)
        is_in = (key >= low) & (key < high)
        share = tl.where(is_counted, 1.0, tl.exp((x - peak) / temperature))
        share = tl.where(is_in, share, 0.0)
        sums += tl.where(key[None, :] >= edges[:, None], share[None, :], 0.0)
        least = tl.minimum(least, tl.where(is_in, key, HIGHEST_INT))
        most = tl.maximum(most, tl.where(is_in, key, LOWEST_INT))
    return tl.sum(sums, axis=1), tl.min(least, axis=0), tl.max(most, axis=0)


@triton.jit
def load_state(state_ptr, N: tl.constexpr):
    """Return what `store_state` stored."""
    return (
        tl.load(state_ptr + PHASE).to(tl.int32),
        tl.load(state_ptr + LOW).to(tl.int64),
        tl.load(state_ptr + HIGH).to(tl.int64),
        tl.load(state_ptr + ABOVE),
        tl.load(state_ptr + TARGET),
        tl.load(state_ptr + PIVOTS + tl.arange(0, N)).to(tl.int64),
    )


@triton.jit
def store_state(state_ptr, phase, low, high, above, target, pivots, N: tl.constexpr):
    """Keep a row's state for the next launch."""
    tl.store(state_ptr + PHASE, phase.to(tl.float64))
    tl.store(state_ptr + LOW, low.to(tl.float64))
    tl.store(state_ptr + HIGH, high.to(tl.float64))
    tl.store(state_ptr + ABOVE, above)
    tl.store(state_ptr + TARGET, target)
    tl.store(state_ptr + PIVOTS + tl.arange(0, N), pivots.to(tl.float64))


@triton.jit
def take_in(
    state_ptr,
    sums_ptr,
    extremes_ptr,
    filters_ptr,
    row,
    peak,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    N: tl.constexpr,
):
    """Return a row's state after the pass whose sums of the tiles are given; they are added in float64."""
    phase, low, high, above, target, pivots = load_state(state_ptr, N)
    if phase != DONE:
        tiles = tl.arange(0, BLOCK_TILES)
        is_tile = tiles < NUM_TILES
        offsets = tiles[:, None] * N + tl.arange(0, N)[None, :]
        sums = tl.sum(tl.load(sums_ptr + offsets, mask=is_tile[:, None], other=0.0).to(tl.float64), axis=0)
        least = tl.min(tl.load(extremes_ptr + 2 * tiles, mask=is_tile, other=HIGHEST_INT), axis=0)
        most = tl.max(tl.load(extremes_ptr + 2 * tiles + 1, mask=is_tile, other=LOWEST_INT), axis=0)
        top_p = tl.load(filters_ptr + row * 3 + 1)
        phase, low, high, above, target = narrow_range(
            phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N
        )
    return phase, low, high, above, target


@triton.jit
def load_peak(peaks_ptr, NUM_TILES: tl.constexpr, BLOCK_TILES: tl.constexpr):
    """The largest of the tiles' peaks."""
    tiles = tl.arange(0, BLOCK_TILES)
    return tl.max(tl.load(peaks_ptr + tiles, mask=tiles < NUM_TILES, other=float("-inf")), axis=0)


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

"""The steps of the search of `find_threshold.py`, of which each pass over the logits is made.

A row's state is its phase, the range of keys [low, high) that is left, the sum above it, the target and the
pivots. A pass goes over tiles of logits (`sum_tile`), and is taken in where all tiles are known
(`narrow_range`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling_state import load_logits, order_key

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

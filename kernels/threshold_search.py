"""The steps of the search of `find_threshold.py`, of which each pass over logits is made.

A row's search is its phase, the range of keys [low, high) that is left, the sum above it and the target. A
pass places pivots (`place_pivots`), sums logits from each of them on (`sum_values`), and takes in what all of
the row's logits sum to (`narrow_range`). Where the logits that are left fit into registers, it ends there
(`search_values`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling_state import key_value, order_key

# Phases of a row; the first pass of a filter has other pivots.
DONE = tl.constexpr(0)
TOP_K_FIRST = tl.constexpr(1)
TOP_K = tl.constexpr(2)
TOP_P_FIRST = tl.constexpr(3)
TOP_P = tl.constexpr(4)

LOWEST = tl.constexpr(-2139095040)
"""Key of the lowest finite number."""
UNKNOWN = tl.constexpr(0.0)
"""Target of top_p until a pass has summed what it is a share of."""
LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST_SCALE = tl.constexpr(1e38)
FARTHEST = tl.constexpr(20.0)
"""Of a first pass's pivots, below the peak, in logits or, for weights, in temperatures."""
WIDEST = tl.constexpr(64.0)
NARROWEST = tl.constexpr(2.0**-8)
"""Ranges of logits between these widths are divided evenly by value."""


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
    """Return N keys int64, ascending from `low`, below `high` or equal to it.

    In a filter's first pass they lie below the peak at growing distances. Later they are even in value, as
    keys are dense near 0, or in keys where the range is too wide for that, or too narrow; then one of them at
    least lies between the two ends, if a key does.
    """
    index = tl.arange(0, N)
    distance = (N - index) / N
    scale = tl.where(phase == TOP_P_FIRST, temperature, 1.0)
    near = order_key(peak - scale * (FARTHEST * distance * distance)).to(tl.int64)
    low_value = key_value(low.to(tl.int32)).to(tl.float64)
    width = key_value(high.to(tl.int32)).to(tl.float64) - low_value
    is_moderate = (width > NARROWEST) & (width < WIDEST)
    value = low_value + tl.where(is_moderate, width, 0.0) * (index.to(tl.float64) * (1.0 / N))
    by_value = order_key(value.to(tl.float32)).to(tl.int64)
    even = tl.where(is_moderate, by_value, low + (high - low) * index // N)
    is_first = (phase == TOP_K_FIRST) | (phase == TOP_P_FIRST)
    pivots = tl.minimum(tl.maximum(tl.where(is_first, near, even), low), high)
    return tl.where(index == 0, low, pivots)


@triton.jit
def sum_values(x, phase, low, high, pivots, peak, temperature):
    """Sum logits [SIZE] float32 of the range from each pivot on.

    Returns the sums [N] float32, the least value of the range, +inf without one, and the largest, or -inf.
    """
    is_in = (x >= key_value(low.to(tl.int32))) & (x < key_value(high.to(tl.int32)))
    # A scale of 0 counts. One that is finite leaves the peak its weight of 1 at any temperature.
    scale = tl.where(phase <= TOP_K, 0.0, tl.minimum(1.0 / temperature, LARGEST_SCALE) * LOG2_E)
    share = tl.exp2(tl.where(is_in, x - peak, 0.0) * scale)
    inside = tl.where(is_in, x, float("-inf"))
    edges = key_value(pivots.to(tl.int32))
    sums = tl.sum(tl.where(inside[None, :] >= edges[:, None], share[None, :], 0.0), axis=1)
    least = tl.min(tl.where(is_in, x, float("inf")), axis=0)
    most = tl.max(inside, axis=0)
    return sums, least, most


@triton.jit
def narrow_range(phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N: tl.constexpr):
    """Take in a pass: the sums from each pivot on within the range, its least value and its largest."""
    index = tl.arange(0, N)
    reached = above + sums
    total = tl.sum(tl.where(index == 0, reached, 0.0), 0)
    target = tl.where(target == UNKNOWN, top_p * total, target)
    place = tl.sum((reached >= target).to(tl.int32), 0) - 1
    pivot = tl.sum(tl.where(index == place, pivots, 0), 0)
    is_last = place == N - 1
    next_pivot = tl.where(is_last, high, tl.sum(tl.where(index == place + 1, pivots, 0), 0))
    next_above = tl.where(is_last, above, tl.sum(tl.where(index == place + 1, reached, 0.0), 0))
    is_met = tl.sum(tl.where(index == place, reached, 0.0), 0) == target
    is_unreached = place < 0
    is_tie = least == most
    is_found = is_unreached | is_tie | is_met | (next_pivot - pivot <= 1)
    found = tl.where(is_unreached, low, tl.where(is_tie, order_key(least).to(tl.int64), pivot))

    is_top_k = phase <= TOP_K
    after = tl.where(is_top_k & (top_p < 1), TOP_P_FIRST, DONE)
    phase = tl.where(is_found, after, tl.where(is_top_k, TOP_K, TOP_P))
    low = tl.where(is_found, found, pivot)
    high = tl.where(is_found, order_key(peak).to(tl.int64) + 1, next_pivot)
    above = tl.where(is_found, 0.0, next_above)
    target = tl.where(is_found, UNKNOWN, target)
    return phase, low, high, above, target


@triton.jit
def search_values(x, phase, low, high, above, target, peak, temperature, top_p, N: tl.constexpr):
    """Return the key that the filters left end at; `x` [SIZE] float32 holds all that they let pass so far."""
    while phase != DONE:
        pivots = place_pivots(phase, low, high, peak, temperature, N)
        sums, least, most = sum_values(x, phase, low, high, pivots, peak, temperature)
        phase, low, high, above, target = narrow_range(
            phase, low, high, above, target, pivots, sums.to(tl.float64), least, most, peak, top_p, N
        )
    return low

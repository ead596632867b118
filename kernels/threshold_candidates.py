"""The logits that are left of a search of `find_threshold.py`, gathered where one program goes through them.

A list has a capacity. What exceeds it is counted and not stored, so the caller sees that it did not fit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling_state import key_value, load_logits
from kernels.threshold_search import TOP_K, search_values


@triton.jit
def append(out_ptr, num, values, is_in, SIZE: tl.constexpr, CAPACITY: tl.constexpr):
    """Store those of the values that are `is_in` after `num` others; returns how many there are.

    What exceeds the capacity is counted, not stored. A barrier comes before they are read.
    """
    is_in = tl.reshape(is_in.to(tl.int32), [SIZE])
    places = num + tl.cumsum(is_in, axis=0) - 1
    tl.store(out_ptr + places, tl.reshape(values, [SIZE]), mask=(is_in > 0) & (places < CAPACITY))
    return num + tl.sum(is_in, axis=0)


@triton.jit
def is_wanted(x, phase, low, high):
    """Which logits a search may need from now on: top_p, which follows top_k, needs those above the range."""
    return (x >= key_value(low.to(tl.int32))) & ((x < key_value(high.to(tl.int32))) | (phase <= TOP_K))


@triton.jit
def gather_groups(
    logits_ptr,
    adjusted_ptr,
    group_peaks_ptr,
    groups_ptr,
    candidates_ptr,
    is_adjusted,
    seq,
    low,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    MAX_GROUPS: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """Make the logits from `low` on the candidates, by the groups whose peaks are; returns their number.

    More than MAX_CANDIDATES where there are too many of them, or of the groups.
    """
    groups = tl.arange(0, BLOCK_GROUPS)
    group_peaks = tl.load(group_peaks_ptr + groups, mask=groups < NUM_GROUPS, other=float("-inf"))
    is_near = group_peaks >= key_value(low.to(tl.int32))
    num_groups = append(groups_ptr, 0, groups, is_near, BLOCK_GROUPS, MAX_GROUPS)
    num = tl.where(num_groups > MAX_GROUPS, MAX_CANDIDATES + 1, 0)
    tl.debug_barrier()
    for first in range(0, tl.where(num_groups > MAX_GROUPS, 0, num_groups), ROWS):
        places = first + tl.arange(0, ROWS)
        is_group = places < num_groups
        group = tl.load(groups_ptr + places, mask=is_group, other=0)
        tokens = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
        is_in = is_group[:, None] & (x >= key_value(low.to(tl.int32)))
        num = append(candidates_ptr, num, x, is_in, ROWS * GROUP, MAX_CANDIDATES)
    tl.debug_barrier()
    return num


@triton.jit
def gather_tiles(
    kept_ptr,
    num_kept_ptr,
    candidates_ptr,
    phase,
    low,
    high,
    NUM_TILES: tl.constexpr,
    CAPACITY: tl.constexpr,
    ROWS: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """Make what is wanted of the tiles' kept logits the candidates; returns their number.

    More than MAX_CANDIDATES where there are too many, or where a tile has kept none.
    """
    num = 0
    slots = tl.arange(0, CAPACITY)
    for first in range(0, NUM_TILES, ROWS):
        tiles = first + tl.arange(0, ROWS)
        num_kept = tl.load(num_kept_ptr + tiles, mask=tiles < NUM_TILES, other=0)
        is_kept = slots[None, :] < num_kept[:, None]
        x = tl.load(kept_ptr + tiles[:, None] * CAPACITY + slots[None, :], mask=is_kept, other=float("-inf"))
        is_in = is_wanted(x, phase, low, high)
        num = append(candidates_ptr, num, x, is_in, ROWS * CAPACITY, MAX_CANDIDATES)
        num = tl.where(tl.min(num_kept, axis=0) < 0, MAX_CANDIDATES + 1, num)
    tl.debug_barrier()
    return num


@triton.jit
def search_candidates(
    candidates_ptr,
    num,
    phase,
    low,
    high,
    above,
    target,
    peak,
    temperature,
    top_p,
    N: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """Return the key that the filters end at, which is among `num` candidates."""
    slots = tl.arange(0, MAX_CANDIDATES)
    x = tl.load(candidates_ptr + slots, mask=slots < num, other=float("-inf"))
    return search_values(x, phase, low, high, above, target, peak, temperature, top_p, N)

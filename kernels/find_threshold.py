"""Find the least logit that min_p, top_k and top_p let pass, without a sort.

    weight(x) = exp((x - peak) / temperature)
    min_p:  the floor is peak + temperature * log(min_p)
    top_k:  the largest t with at least top_k logits >= t, or the floor where fewer are above it
    top_p:  the largest t with weights of logits >= t that sum to top_p of those that the others let pass

Both are one search: for the largest t whose sum reaches a target, where a logit counts 1 or its weight. It
goes over keys, integers in the order of the logits, so that it ends, and so that ties stay together. A pass
over the logits sums what lies in the range of keys and not below each of its pivots; the range between two
pivots is the next pass's. The search ends early where the sum is met exactly, or where all logits of the
range are equal. A row is searched in three steps, each for what the one before left:

1. The peaks of groups of 256 tokens are logits too. Where the target is reached among them alone, few groups
   have more above that bound, and one program a sequence looks through those. It reads the groups' peaks, and
   at most 128 groups. That ends top_k up to about 100, and top_p of the peaked logits of language models.
2. In `NUM_PASSES` passes all tiles of the vocabulary work at the same time. A tile reads its logits once a
   pass; once no more than 256 of them are left, it keeps these, and reads no others. After each pass one
   program a sequence takes in the sums, and ends the search where no more than 1,024 kept logits are left.
3. The last of these programs goes on with passes of its own for as long as it takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.launch import programs_each
from kernels.sampling_state import (
    ADJUSTED,
    FILTERED,
    GROUP,
    TILE,
    SamplingState,
    load_logits,
    order_key,
)
from kernels.threshold_candidates import append, gather_groups, gather_tiles, is_wanted, search_candidates
from kernels.threshold_search import (
    DONE,
    LOWEST,
    TOP_P_FIRST,
    UNKNOWN,
    begin_search,
    narrow_range,
    place_pivots,
    search_values,
    sum_values,
)

NUM_PIVOTS = 16
NUM_PIVOTS_AMONG_FEW = 8
NUM_PASSES = 3
CAPACITY = GROUP
"""Logits that a tile keeps."""
MAX_GROUPS = 128
"""Groups that one program looks through."""
MAX_CANDIDATES = 1024
"""Logits among which one program ends a search."""
ROWS_AT_ONCE = 8
NUM_WARPS = 8
MAX_REGISTERS = 128
"""Of a pass over tiles, so that two programs share a multiprocessor."""

# Entries of a row's state, float64: integers of 32 bits are exact in it.
PHASE = tl.constexpr(0)
LOW = tl.constexpr(1)
HIGH = tl.constexpr(2)
ABOVE = tl.constexpr(3)
TARGET = tl.constexpr(4)
PEAK = tl.constexpr(5)
STATE = tl.constexpr(8)


@triton.jit
def load_state(state_ptr):
    """Return what `store_state` stored, but the phase."""
    return (
        tl.load(state_ptr + LOW).to(tl.int64),
        tl.load(state_ptr + HIGH).to(tl.int64),
        tl.load(state_ptr + ABOVE),
        tl.load(state_ptr + TARGET),
    )


@triton.jit
def store_state(state_ptr, phase, low, high, above, target):
    """Keep a row's state for the next launch."""
    tl.store(state_ptr + PHASE, phase.to(tl.float64))
    tl.store(state_ptr + LOW, low.to(tl.float64))
    tl.store(state_ptr + HIGH, high.to(tl.float64))
    tl.store(state_ptr + ABOVE, above)
    tl.store(state_ptr + TARGET, target)


@triton.jit
def sum_tile(
    logits_ptr,
    adjusted_ptr,
    peaks_ptr,
    kept_ptr,
    num_kept_ptr,
    is_adjusted,
    seq,
    tile,
    phase,
    low,
    high,
    pivots,
    peak,
    temperature,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    CAPACITY: tl.constexpr,
    N: tl.constexpr,
):
    """Go over one tile, or what it has kept, as `sum_values`; keep what is wanted of it if it fits."""
    place = seq * NUM_TILES + tile
    sums = tl.zeros([N], dtype=tl.float32)
    least = float("inf")
    most = float("-inf")
    num_kept = tl.load(num_kept_ptr + place)
    if order_key(tl.load(peaks_ptr + place)) < low:
        num_kept = 0
        tl.store(num_kept_ptr + place, 0)
    if num_kept < 0:
        tokens = tile * TILE + tl.arange(0, TILE)
        x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
        is_in = is_wanted(x, phase, low, high)
        num_wanted = tl.sum(is_in.to(tl.int32), axis=0)
        if num_wanted <= CAPACITY:
            num_kept = append(kept_ptr + place * CAPACITY, 0, x, is_in, TILE, CAPACITY)
            tl.store(num_kept_ptr + place, num_kept)
            tl.debug_barrier()
        else:
            sums, least, most = sum_values(x, phase, low, high, pivots, peak, temperature)
    if num_kept > 0:
        slots = tl.arange(0, CAPACITY)
        x = tl.load(kept_ptr + place * CAPACITY + slots, mask=slots < num_kept, other=float("-inf"))
        sums, least, most = sum_values(x, phase, low, high, pivots, peak, temperature)
    return sums, least, most


@triton.jit
def begin_search_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    filters_ptr,
    peaks_ptr,
    group_peaks_ptr,
    weights_ptr,
    state_ptr,
    groups_ptr,
    candidates_ptr,
    num_kept_ptr,
    thresholds_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    MAX_GROUPS: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """One program a sequence: bound the threshold from below, and end the search if few groups reach it."""
    seq = tl.program_id(0).to(tl.int64)
    state_ptr += seq * STATE
    tl.store(state_ptr + PHASE, 0.0)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    if (flags & FILTERED) == 0:
        return
    tiles = tl.arange(0, BLOCK_TILES)
    is_tile = tiles < NUM_TILES
    peaks = tl.load(peaks_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=float("-inf"))
    peak = tl.max(peaks, axis=0)
    if (peak == float("inf")) | (peak == float("-inf")):
        return
    temperature = tl.load(temperatures_ptr + row)
    top_p = tl.load(filters_ptr + row * 3 + 1)
    phase, low, high, above, target = begin_search(filters_ptr, row, peak, temperature)
    if phase != DONE:
        margin = 1.0
        if (phase == TOP_P_FIRST) & (low == LOWEST):
            weights = tl.load(weights_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=0.0)
            weights = (weights * tl.exp((peaks - peak) / temperature)).to(tl.float64)
            target = top_p * tl.sum(weights, axis=0)
            margin = 1.00001
        group_peaks_ptr += seq * NUM_TILES * GROUPS
        groups_ptr += seq * MAX_GROUPS
        candidates_ptr += seq * MAX_CANDIDATES
        if target != UNKNOWN:
            groups = tl.arange(0, BLOCK_TILES * GROUPS)
            is_group = groups < NUM_TILES * GROUPS
            group_peaks = tl.load(group_peaks_ptr + groups, mask=is_group, other=float("-inf"))
            low = search_values(
                group_peaks, phase, low, high, above, margin * target, peak, temperature, 1.0, FEW
            )
        num = gather_groups(
            logits_ptr,
            adjusted_ptr,
            group_peaks_ptr,
            groups_ptr,
            candidates_ptr,
            (flags & ADJUSTED) != 0,
            seq,
            low,
            logits_stride,
            VOCAB,
            NUM_TILES * GROUPS,
            BLOCK_TILES * GROUPS,
            GROUP,
            ROWS,
            MAX_GROUPS,
            MAX_CANDIDATES,
        )
        if num <= MAX_CANDIDATES:
            low = search_candidates(
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
                FEW,
                MAX_CANDIDATES,
            )
            phase = DONE
    if phase == DONE:
        tl.store(thresholds_ptr + seq, low.to(tl.int32))
    else:
        store_state(state_ptr, phase, low, high, above, target)
        tl.store(state_ptr + PEAK, peak.to(tl.float64))
        tl.store(num_kept_ptr + seq * NUM_TILES + tiles, -1, mask=is_tile)


@triton.jit
def search_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    peaks_ptr,
    state_ptr,
    kept_ptr,
    num_kept_ptr,
    sums_ptr,
    extremes_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    CAPACITY: tl.constexpr,
    N: tl.constexpr,
):
    """One pass: some programs for each sequence, which share its tiles."""
    seq = tl.program_id(1).to(tl.int64)
    state_ptr += seq * STATE
    phase = tl.load(state_ptr + PHASE).to(tl.int32)
    if phase == DONE:
        return
    low, high, _, _ = load_state(state_ptr)
    row = tl.load(rows_ptr + seq)
    is_adjusted = (tl.load(flags_ptr + row) & ADJUSTED) != 0
    temperature = tl.load(temperatures_ptr + row)
    peak = tl.load(state_ptr + PEAK).to(tl.float32)
    pivots = place_pivots(phase, low, high, peak, temperature, N)
    for tile in range(tl.program_id(0), NUM_TILES, tl.num_programs(0)):
        sums, least, most = sum_tile(
            logits_ptr,
            adjusted_ptr,
            peaks_ptr,
            kept_ptr,
            num_kept_ptr,
            is_adjusted,
            seq,
            tile,
            phase,
            low,
            high,
            pivots,
            peak,
            temperature,
            logits_stride,
            VOCAB,
            NUM_TILES,
            TILE,
            CAPACITY,
            N,
        )
        place = seq * NUM_TILES + tile
        tl.store(sums_ptr + place * N + tl.arange(0, N), sums)
        tl.store(extremes_ptr + place * 2, least)
        tl.store(extremes_ptr + place * 2 + 1, most)


@triton.jit
def narrow_search_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    filters_ptr,
    peaks_ptr,
    state_ptr,
    candidates_ptr,
    kept_ptr,
    num_kept_ptr,
    sums_ptr,
    extremes_ptr,
    thresholds_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    TILE: tl.constexpr,
    CAPACITY: tl.constexpr,
    N: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
    IS_LAST: tl.constexpr,
):
    """One program a sequence: take in a pass, and end the search where few logits are left.

    The last one goes on with passes of its own for as long as it takes.
    """
    seq = tl.program_id(0).to(tl.int64)
    state_ptr += seq * STATE
    phase = tl.load(state_ptr + PHASE).to(tl.int32)
    if phase == DONE:
        return
    low, high, above, target = load_state(state_ptr)
    row = tl.load(rows_ptr + seq)
    temperature = tl.load(temperatures_ptr + row)
    top_p = tl.load(filters_ptr + row * 3 + 1)
    peak = tl.load(state_ptr + PEAK).to(tl.float32)
    candidates_ptr += seq * MAX_CANDIDATES
    tiles = tl.arange(0, BLOCK_TILES)
    is_tile = tiles < NUM_TILES
    offsets = (seq * NUM_TILES + tiles[:, None]) * N + tl.arange(0, N)[None, :]
    sums = tl.sum(tl.load(sums_ptr + offsets, mask=is_tile[:, None], other=0.0).to(tl.float64), axis=0)
    extremes_ptr += seq * NUM_TILES * 2
    least = tl.min(tl.load(extremes_ptr + 2 * tiles, mask=is_tile, other=float("inf")), axis=0)
    most = tl.max(tl.load(extremes_ptr + 2 * tiles + 1, mask=is_tile, other=float("-inf")), axis=0)
    pivots = place_pivots(phase, low, high, peak, temperature, N)
    phase, low, high, above, target = narrow_range(
        phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N
    )
    if phase != DONE:
        num = gather_tiles(
            kept_ptr + seq * NUM_TILES * CAPACITY,
            num_kept_ptr + seq * NUM_TILES,
            candidates_ptr,
            phase,
            low,
            high,
            NUM_TILES,
            CAPACITY,
            ROWS,
            MAX_CANDIDATES,
        )
        if num <= MAX_CANDIDATES:
            low = search_candidates(
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
                FEW,
                MAX_CANDIDATES,
            )
            phase = DONE
    if IS_LAST:
        is_adjusted = (tl.load(flags_ptr + row) & ADJUSTED) != 0
        while phase != DONE:
            pivots = place_pivots(phase, low, high, peak, temperature, N)
            sums = tl.zeros([N], dtype=tl.float64)
            least = float("inf")
            most = float("-inf")
            for tile in range(NUM_TILES):
                tile_sums, tile_least, tile_most = sum_tile(
                    logits_ptr,
                    adjusted_ptr,
                    peaks_ptr,
                    kept_ptr,
                    num_kept_ptr,
                    is_adjusted,
                    seq,
                    tile,
                    phase,
                    low,
                    high,
                    pivots,
                    peak,
                    temperature,
                    logits_stride,
                    VOCAB,
                    NUM_TILES,
                    TILE,
                    CAPACITY,
                    N,
                )
                sums += tile_sums.to(tl.float64)
                least = tl.minimum(least, tile_least)
                most = tl.maximum(most, tile_most)
            phase, low, high, above, target = narrow_range(
                phase, low, high, above, target, pivots, sums, least, most, peak, top_p, N
            )
    if phase == DONE:
        tl.store(thresholds_ptr + seq, low.to(tl.int32))
        tl.store(state_ptr + PHASE, 0.0)
    else:
        store_state(state_ptr, phase, low, high, above, target)


def find_threshold_triton(
    logits: torch.Tensor,
    adjusted: torch.Tensor,
    rows: torch.Tensor,
    state: SamplingState,
    peaks: torch.Tensor,
    group_peaks: torch.Tensor,
    weights: torch.Tensor,
    num_passes: int = NUM_PASSES,
) -> torch.Tensor:
    """Launch the kernels.

    Args:
        logits: [num_seqs, vocab] of any float type.
        adjusted: [num_seqs, vocab] float32: what the rows that are ADJUSTED have instead.
        rows: [num_seqs] int64; -1 is padding.
        state: of the rows.
        peaks: [num_seqs, num_tiles] float32 of tiles of `TILE` tokens; not finite where nothing can be drawn.
        group_peaks: [num_seqs, num_tiles, TILE // GROUP] float32, the largest logit of each group.
        weights: [num_seqs, num_tiles] float32, the sum of a tile's exp((logit - peak) / temperature).
        num_passes: by all tiles at once; at least 1.

    Returns:
        [num_seqs] int32: the least `order_key` that passes. Rows that are not FILTERED are not computed.
    """
    num_seqs, vocab = logits.shape
    num_tiles = triton.cdiv(vocab, TILE)
    device = logits.device

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty((num_seqs, *shape), dtype=dtype, device=device)

    states, thresholds = empty(STATE.value, dtype=torch.float64), empty(dtype=torch.int32)
    groups, candidates = empty(MAX_GROUPS, dtype=torch.int32), empty(MAX_CANDIDATES)
    kept, num_kept = empty(num_tiles, CAPACITY), empty(num_tiles, dtype=torch.int32)
    sums, extremes = empty(num_tiles, NUM_PIVOTS), empty(num_tiles, 2)
    inputs = (logits, adjusted, rows, state.flags, state.temperatures)
    vocabulary = {"VOCAB": vocab, "NUM_TILES": num_tiles, "num_warps": NUM_WARPS}
    tiles = {"TILE": TILE, "CAPACITY": CAPACITY, "N": NUM_PIVOTS}
    one_program = {
        "BLOCK_TILES": triton.next_power_of_2(num_tiles),
        "FEW": NUM_PIVOTS_AMONG_FEW,
        "ROWS": ROWS_AT_ONCE,
        "MAX_CANDIDATES": MAX_CANDIDATES,
    }
    begin_search_kernel[(num_seqs,)](
        *inputs,
        state.filters,
        peaks,
        group_peaks,
        weights,
        states,
        groups,
        candidates,
        num_kept,
        thresholds,
        logits.stride(0),
        **vocabulary,
        **one_program,
        GROUPS=TILE // GROUP,
        GROUP=GROUP,
        MAX_GROUPS=MAX_GROUPS,
    )
    for index in range(num_passes):
        search_kernel[(programs_each(num_tiles, num_seqs), num_seqs)](
            *inputs,
            peaks,
            states,
            kept,
            num_kept,
            sums,
            extremes,
            logits.stride(0),
            **vocabulary,
            **tiles,
            maxnreg=MAX_REGISTERS,
        )
        narrow_search_kernel[(num_seqs,)](
            *inputs,
            state.filters,
            peaks,
            states,
            candidates,
            kept,
            num_kept,
            sums,
            extremes,
            thresholds,
            logits.stride(0),
            **vocabulary,
            **one_program,
            **tiles,
            IS_LAST=index == num_passes - 1,
        )
    return thresholds

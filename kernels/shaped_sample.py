"""Choose each row's next token by all that it asks for, and append it to the row.

As `sample.py`, which stays for batches whose rows ask for no more than a temperature, with these between:

    adjust_logits   penalties, masks and edits
    find_threshold  min_p, top_k and top_p; what lies below has no share in the draw

logits: [num_seqs, vocab] of any float type; rows: [num_seqs] int64, where -1 is padding; the tables are those
of `sampling_state.py`. Returns [num_seqs] int64: -1 where logits hold NaN, +inf or nothing finite, -2 where
all tokens are forbidden; such a row goes on with token 0 until it is given up. A row that asks for nothing
leaves each kernel but two at its first instruction, and gets the token that `sample` gives it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.adjust_logits import adjust_logits_reference, adjust_logits_triton
from kernels.find_threshold import find_threshold_triton
from kernels.launch import programs_each
from kernels.sample import draw_in_tile, draw_tile, first_best, summarise_tile
from kernels.sampling_state import (
    ADJUSTED,
    FILTERED,
    GROUP,
    PENALISED,
    TILE,
    SamplingState,
    load_logits,
    order_key,
)
from kernels.threshold_search import LOWEST
from kernels.token_filters import draw_reference
from kernels.uniform import uniform, uniform_reference

NUM_WARPS = 8


def shaped_sample_reference(logits: torch.Tensor, rows: torch.Tensor, state: SamplingState) -> torch.Tensor:
    """Compute in plain torch; the CPU path. There is no padding on the CPU."""
    is_healthy = logits.float().amax(-1).isfinite()
    adjusted = adjust_logits_reference(logits, rows, state)
    token_ids = adjusted.argmax(-1)
    is_possible = adjusted.amax(-1).isfinite()
    drawn = (state.temperatures[rows] > 0).nonzero()[:, 0]
    if len(drawn):
        picked = rows[drawn]
        numbers = uniform_reference(state.keys[picked], state.num_tokens[picked])
        is_filtered = (state.flags[picked] & FILTERED.value)[:, None] > 0
        top_k, top_p, min_p = state.filters[picked][:, :, None].unbind(1)
        filters = (
            torch.where(is_filtered, top_k, 0.0).long(),
            torch.where(is_filtered, top_p, 1.0),
            torch.where(is_filtered, min_p, 0.0),
        )
        temperature = state.temperatures[picked][:, None]
        token_ids[drawn] = draw_reference(adjusted[drawn], temperature, filters, numbers)
    token_ids = torch.where(is_possible, token_ids, -2)
    token_ids = torch.where(is_healthy, token_ids, -1)
    state.token_table[rows, state.num_tokens[rows]] = token_ids.clamp(min=0).int()
    state.num_tokens[rows] += 1
    counted = ((state.flags[rows] & PENALISED.value) > 0) & (token_ids >= 0)
    rows, token_ids_counted = rows[counted], token_ids[counted]
    state.counts[rows, token_ids_counted] = state.counts[rows, token_ids_counted].clamp(min=0) + 1
    return token_ids


@triton.jit
def reduce_logits_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    peaks_ptr,
    group_peaks_ptr,
    places_ptr,
    weights_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One program for each (tile, sequence). As `reduce_tiles_kernel`, of logits that may be adjusted.

    group_peaks: [num_seqs, NUM_TILES, TILE // GROUP] float32, the largest logit of each GROUP of tokens.
    """
    tile = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    is_adjusted = (tl.load(flags_ptr + row) & ADJUSTED) != 0
    tokens = tile * TILE + tl.arange(0, TILE)
    x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
    out = seq * NUM_TILES + tile
    temperature = tl.load(temperatures_ptr + row)
    summarise_tile(x, tokens, temperature, out, peaks_ptr, places_ptr, weights_ptr, VOCAB)
    group_peaks = tl.max(tl.reshape(x, [TILE // GROUP, GROUP]), axis=1)
    tl.store(group_peaks_ptr + out * (TILE // GROUP) + tl.arange(0, TILE // GROUP), group_peaks)


@triton.jit
def weigh_kept_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    thresholds_ptr,
    peaks_ptr,
    weights_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Some programs a sequence, which share its tiles: a FILTERED row's weights, of what passed alone."""
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    if (flags & FILTERED) == 0:
        return
    is_adjusted = (flags & ADJUSTED) != 0
    temperature = tl.load(temperatures_ptr + row)
    threshold = tl.load(thresholds_ptr + seq)
    for tile in range(tl.program_id(0), NUM_TILES, tl.num_programs(0)):
        out = seq * NUM_TILES + tile
        peak = tl.load(peaks_ptr + out)
        weight = 0.0
        if order_key(peak) >= threshold:
            tokens = tile * TILE + tl.arange(0, TILE)
            x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
            share = tl.exp((x - peak) / temperature)
            weight = tl.sum(tl.where(order_key(x) >= threshold, share, 0.0), axis=0)
        tl.store(weights_ptr + out, weight)


@triton.jit
def choose_shaped_kernel(
    logits_ptr,
    adjusted_ptr,
    rows_ptr,
    flags_ptr,
    temperatures_ptr,
    keys_ptr,
    num_tokens_ptr,
    token_table_ptr,
    counts_ptr,
    raw_peaks_ptr,
    peaks_ptr,
    places_ptr,
    weights_ptr,
    thresholds_ptr,
    tokens_ptr,
    logits_stride,
    table_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
):
    """One program a sequence."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    is_adjusted = (flags & ADJUSTED) != 0
    tiles = tl.arange(0, BLOCK_TILES)
    is_tile = tiles < NUM_TILES
    peaks = tl.load(peaks_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=float("-inf"))
    peak = tl.max(peaks, axis=0)
    raw_peak = peak
    if is_adjusted:
        raw_peaks_ptr += seq * NUM_TILES
        raw_peak = tl.max(tl.load(raw_peaks_ptr + tiles, mask=is_tile, other=float("-inf")), axis=0)
    num_tokens = tl.load(num_tokens_ptr + row)
    tl.store(num_tokens_ptr + row, num_tokens + 1)
    table_ptr = token_table_ptr + row * table_stride + num_tokens
    is_healthy = (raw_peak > float("-inf")) & (raw_peak < float("inf"))
    if (peak == float("inf")) | (peak == float("-inf")) | (is_healthy == 0):
        tl.store(tokens_ptr + seq, tl.where(is_healthy, -2, -1).to(tl.int64))
        tl.store(table_ptr, 0)
        return
    temperature = tl.load(temperatures_ptr + row)
    if temperature > 0:
        threshold = LOWEST
        if (flags & FILTERED) != 0:
            threshold = tl.load(thresholds_ptr + seq)
        weights = tl.load(weights_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=0.0)
        weights = (weights * tl.exp((peaks - peak) / temperature)).to(tl.float64)
        number = uniform(tl.load(keys_ptr + row), num_tokens)
        # What was filtered away must not be drawn where rounding puts the number beyond the sum.
        last_tile = tl.max(tl.where(weights > 0, tiles, 0), axis=0)
        tile, target = draw_tile(weights, number, last_tile, tiles, is_tile)
        tokens = tile * TILE + tl.arange(0, TILE)
        x = load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB)
        shares = tl.where(order_key(x) >= threshold, tl.exp((x - peak) / temperature), 0.0)
        token = draw_in_tile(shares, target, tile, tokens, TILE)
    else:
        token = first_best(peaks, peak, places_ptr + seq * NUM_TILES, tiles, is_tile, NUM_TILES)
    tl.store(tokens_ptr + seq, token.to(tl.int64))
    tl.store(table_ptr, token)
    if (flags & PENALISED) != 0:
        count_ptr = counts_ptr + row * VOCAB + token
        tl.store(count_ptr, tl.maximum(tl.load(count_ptr), 0) + 1)


def shaped_sample_triton(logits: torch.Tensor, rows: torch.Tensor, state: SamplingState) -> torch.Tensor:
    """Launch the kernels."""
    state.check(logits, rows)
    num_seqs, vocab = logits.shape
    token_ids = torch.empty(num_seqs, dtype=torch.int64, device=logits.device)
    if num_seqs == 0:
        return token_ids
    num_tiles = triton.cdiv(vocab, TILE)
    peaks = torch.empty((num_seqs, num_tiles), dtype=torch.float32, device=logits.device)
    places = torch.empty((num_seqs, num_tiles), dtype=torch.int32, device=logits.device)
    weights = torch.empty_like(peaks)
    group_peaks = torch.empty((*peaks.shape, TILE // GROUP), dtype=torch.float32, device=logits.device)
    shape = {"VOCAB": vocab, "NUM_TILES": num_tiles, "TILE": TILE, "num_warps": NUM_WARPS}
    adjusted, raw_peaks = adjust_logits_triton(logits, rows, state)
    inputs = (logits, adjusted, rows, state.flags, state.temperatures)
    reduce_logits_kernel[(num_tiles, num_seqs)](
        *inputs, peaks, group_peaks, places, weights, logits.stride(0), **shape, GROUP=GROUP
    )
    thresholds = find_threshold_triton(logits, adjusted, rows, state, peaks, group_peaks, weights)
    weigh_kept_kernel[(programs_each(num_tiles, num_seqs), num_seqs)](
        *inputs, thresholds, peaks, weights, logits.stride(0), **shape
    )
    choose_shaped_kernel[(num_seqs,)](
        *inputs,
        state.keys,
        state.num_tokens,
        state.token_table,
        state.counts,
        raw_peaks,
        peaks,
        places,
        weights,
        thresholds,
        token_ids,
        logits.stride(0),
        state.token_table.stride(0),
        BLOCK_TILES=triton.next_power_of_2(num_tiles),
        **shape,
    )
    return token_ids


def shaped_sample(logits: torch.Tensor, rows: torch.Tensor, state: SamplingState) -> torch.Tensor:
    """Choose and append one token for each sequence; returns the tokens [num_seqs] int64."""
    compute = shaped_sample_triton if logits.is_cuda else shaped_sample_reference
    return compute(logits, rows, state)

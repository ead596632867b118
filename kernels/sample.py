"""Choose each row's next token, and append it to the row: greedy, or by temperature alone.

    token = argmax(logits)                                              where temperature = 0
    token = first t with sum over s <= t of exp(logits[s] / temperature) > uniform * total   elsewhere

logits: [num_seqs, vocab] of any float type; rows: [num_seqs] int64, where -1 is padding. Of the tables, by
row: temperatures float32, keys int64 (`uniform.py`), num_tokens int64 and token_table [num_rows, max_tokens]
int32. The uniform number is that of (key, num_tokens), so a draw is the same in any batch. The token is
written to token_table[row, num_tokens], and num_tokens grows by 1. Returns [num_seqs] int64: -1 where logits
hold NaN, +inf or nothing finite; such a row goes on with token 0 until it is given up.

There is no sort. One kernel reduces tiles of the vocabulary, and reads the logits once; another finds the
tile that holds the token, and reads that tile again. Sums across tiles are float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.uniform import uniform, uniform_reference

TILE = 4096
NUM_WARPS = 8


def sample_reference(
    logits: torch.Tensor,
    rows: torch.Tensor,
    temperatures: torch.Tensor,
    keys: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
) -> torch.Tensor:
    """Compute in plain torch; the CPU path. There is no padding on the CPU."""
    logits = logits.float()
    peaks = logits.amax(-1, keepdim=True)
    temperature = temperatures[rows][:, None]
    is_drawn = temperature > 0
    weights = ((logits - peaks) / torch.where(is_drawn, temperature, 1.0)).exp()
    cumulative = weights.nan_to_num(nan=0.0).cumsum(-1, dtype=torch.float64)
    numbers = uniform_reference(keys[rows], num_tokens[rows])[:, None]
    drawn = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)[:, 0]
    token_ids = torch.where(is_drawn[:, 0], drawn, logits.argmax(-1))
    token_ids = torch.where(peaks[:, 0].isfinite(), token_ids, -1)
    token_table[rows, num_tokens[rows]] = token_ids.clamp(min=0).int()
    num_tokens[rows] += 1
    return token_ids


@triton.jit
def summarise_tile(x, tokens, temperature, out, peaks_ptr, places_ptr, weights_ptr, VOCAB: tl.constexpr):
    """Store of a tile's logits `x` [TILE] float32 what `reduce_tiles_kernel` promises, at the place `out`."""
    is_bad = (x != x) | (x == float("inf"))
    num_bad = tl.sum(is_bad.to(tl.int32), axis=0)
    x = tl.where(is_bad, float("-inf"), x)
    peak = tl.max(x, axis=0)
    place = tl.min(tl.where(x == peak, tokens, VOCAB - 1), axis=0)
    tl.store(peaks_ptr + out, tl.where(num_bad > 0, float("inf"), peak))
    tl.store(places_ptr + out, place)
    if temperature > 0:
        peak = tl.where(peak == float("-inf"), 0.0, peak)
        tl.store(weights_ptr + out, tl.sum(tl.exp((x - peak) / temperature), axis=0))


@triton.jit
def draw_tile(weights, number, last_tile, tiles, is_tile):
    """Return the tile that a number in [0, 1) falls on, and the weight below it within the tile, float64.

    `weights` [BLOCK_TILES] float64 are to one peak. Rounding may put the number beyond `last_tile`.
    """
    target = number * tl.sum(weights, axis=0)
    is_below = (tl.cumsum(weights, axis=0) <= target) & is_tile
    tile = tl.minimum(tl.sum(is_below.to(tl.int32), axis=0), last_tile)
    return tile, target - tl.sum(tl.where(tiles < tile, weights, 0.0), axis=0)


@triton.jit
def draw_in_tile(shares, target, tile, tokens, TILE: tl.constexpr):
    """Return the token of a tile that `target` falls on; `shares` [TILE] float32 are its tokens' weights."""
    num_below = tl.sum((tl.cumsum(shares.to(tl.float64), axis=0) <= target).to(tl.int32), axis=0)
    # Rounding may put the target beyond the tile's sum.
    last = tl.max(tl.where(shares > 0, tokens, 0), axis=0)
    return tl.minimum(tile * TILE + num_below, last)


@triton.jit
def first_best(peaks, peak, places_ptr, tiles, is_tile, NUM_TILES: tl.constexpr):
    """Return the first token whose logit is the peak; `places_ptr` points at the sequence's tiles."""
    tile = tl.min(tl.where((peaks == peak) & is_tile, tiles, NUM_TILES - 1), axis=0)
    return tl.load(places_ptr + tile)


@triton.jit
def reduce_tiles_kernel(
    logits_ptr,
    rows_ptr,
    temperatures_ptr,
    peaks_ptr,
    places_ptr,
    weights_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program for each (tile, sequence).

    peaks: [num_seqs, NUM_TILES] float32, the largest logit, +inf where the tile holds NaN or +inf; places:
    the token of the peak; weights: sum of exp((logit - peak) / temperature) where a temperature is given.
    """
    tile = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    tokens = tile * TILE + tl.arange(0, TILE)
    x = tl.load(logits_ptr + seq * logits_stride + tokens, mask=tokens < VOCAB, other=float("-inf")).to(
        tl.float32
    )
    out = seq * NUM_TILES + tile
    temperature = tl.load(temperatures_ptr + row)
    summarise_tile(x, tokens, temperature, out, peaks_ptr, places_ptr, weights_ptr, VOCAB)


@triton.jit
def choose_token_kernel(
    logits_ptr,
    rows_ptr,
    temperatures_ptr,
    keys_ptr,
    num_tokens_ptr,
    token_table_ptr,
    peaks_ptr,
    places_ptr,
    weights_ptr,
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
    tiles = tl.arange(0, BLOCK_TILES)
    is_tile = tiles < NUM_TILES
    peaks = tl.load(peaks_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=float("-inf"))
    peak = tl.max(peaks, axis=0)
    num_tokens = tl.load(num_tokens_ptr + row)
    tl.store(num_tokens_ptr + row, num_tokens + 1)
    table_ptr = token_table_ptr + row * table_stride + num_tokens
    if (peak == float("inf")) | (peak == float("-inf")):
        tl.store(tokens_ptr + seq, -1)
        tl.store(table_ptr, 0)
        return
    temperature = tl.load(temperatures_ptr + row)
    if temperature > 0:
        weights = tl.load(weights_ptr + seq * NUM_TILES + tiles, mask=is_tile, other=0.0)
        weights = (weights * tl.exp((peaks - peak) / temperature)).to(tl.float64)
        number = uniform(tl.load(keys_ptr + row), num_tokens)
        tile, target = draw_tile(weights, number, NUM_TILES - 1, tiles, is_tile)
        tokens = tile * TILE + tl.arange(0, TILE)
        x = tl.load(logits_ptr + seq * logits_stride + tokens, mask=tokens < VOCAB, other=float("-inf"))
        token = draw_in_tile(tl.exp((x.to(tl.float32) - peak) / temperature), target, tile, tokens, TILE)
    else:
        token = first_best(peaks, peak, places_ptr + seq * NUM_TILES, tiles, is_tile, NUM_TILES)
    tl.store(tokens_ptr + seq, token.to(tl.int64))
    tl.store(table_ptr, token)


def sample_triton(
    logits: torch.Tensor,
    rows: torch.Tensor,
    temperatures: torch.Tensor,
    keys: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
) -> torch.Tensor:
    """Launch the kernels."""
    num_seqs, vocab = logits.shape
    assert rows.shape == (num_seqs,)
    assert logits.stride(1) == token_table.stride(1) == 1
    assert rows.dtype == keys.dtype == num_tokens.dtype == torch.int64
    assert temperatures.dtype == torch.float32
    assert token_table.dtype == torch.int32
    token_ids = torch.empty(num_seqs, dtype=torch.int64, device=logits.device)
    if num_seqs == 0:
        return token_ids
    num_tiles = triton.cdiv(vocab, TILE)
    peaks = torch.empty((num_seqs, num_tiles), dtype=torch.float32, device=logits.device)
    places = torch.empty((num_seqs, num_tiles), dtype=torch.int32, device=logits.device)
    weights = torch.empty_like(peaks)
    reduce_tiles_kernel[(num_tiles, num_seqs)](
        logits,
        rows,
        temperatures,
        peaks,
        places,
        weights,
        logits.stride(0),
        VOCAB=vocab,
        NUM_TILES=num_tiles,
        TILE=TILE,
        num_warps=NUM_WARPS,
    )
    choose_token_kernel[(num_seqs,)](
        logits,
        rows,
        temperatures,
        keys,
        num_tokens,
        token_table,
        peaks,
        places,
        weights,
        token_ids,
        logits.stride(0),
        token_table.stride(0),
        VOCAB=vocab,
        NUM_TILES=num_tiles,
        TILE=TILE,
        BLOCK_TILES=triton.next_power_of_2(num_tiles),
        num_warps=NUM_WARPS,
    )
    return token_ids


def sample(
    logits: torch.Tensor,
    rows: torch.Tensor,
    temperatures: torch.Tensor,
    keys: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
) -> torch.Tensor:
    """Choose and append one token for each sequence; returns the tokens [num_seqs] int64."""
    compute = sample_triton if logits.is_cuda else sample_reference
    return compute(logits, rows, temperatures, keys, num_tokens, token_table)

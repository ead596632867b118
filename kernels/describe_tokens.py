"""Log probabilities of chosen tokens and of the most likely ones, by the model's own logits, without a sort.

    logprob(t) = logits[t] - log(sum over s of exp(logits[s]))    rank = 1 + the number of larger logits

logits: [num_seqs, vocab] of any float type; token_ids: [num_seqs] int64, where a negative one stands for 0;
rows: [num_seqs] int64, where -1 is padding; the tables are those of `sampling_state.py`. Only REPORTED rows
are computed. Logits that tie are ordered by their token.

One kernel goes over tiles of the vocabulary: it takes the largest as often as the row asks for, into a list
of the tile. Another merges the lists, of which it needs the heads alone. The logits are read once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels.sampling_state import (
    MAX_LISTED,
    MAX_TOP,
    REPORTED,
    TILE,
    SamplingState,
    order_key,
    order_key_reference,
)

NUM_WARPS = 8
LOWEST_LONG = tl.constexpr(-(1 << 63))


class Descriptions(NamedTuple):
    """Of [num_seqs] tokens; what a row does not ask for may hold anything."""

    logprobs: torch.Tensor
    """[num_seqs] float32."""
    ranks: torch.Tensor
    """[num_seqs] int32, from 1."""
    top_ids: torch.Tensor
    """[num_seqs, MAX_TOP] int32: the most likely tokens, best first, as many as the row asks for."""
    top_logprobs: torch.Tensor
    """[num_seqs, MAX_TOP] float32."""
    listed_logprobs: torch.Tensor
    """[num_seqs, MAX_LISTED] float32: of the tokens that the row lists."""

    @staticmethod
    def allocate(num_seqs: int, device: torch.device) -> Descriptions:
        """Return memory for the descriptions of `num_seqs` tokens."""
        return Descriptions(
            torch.empty(num_seqs, dtype=torch.float32, device=device),
            torch.empty(num_seqs, dtype=torch.int32, device=device),
            torch.empty(num_seqs, MAX_TOP, dtype=torch.int32, device=device),
            torch.empty(num_seqs, MAX_TOP, dtype=torch.float32, device=device),
            torch.empty(num_seqs, MAX_LISTED, dtype=torch.float32, device=device),
        )

    def head(self, num_seqs: int) -> Descriptions:
        """Return the part of the first sequences."""
        return Descriptions(*(each[:num_seqs] for each in self))


def describe_tokens_reference(
    logits: torch.Tensor, token_ids: torch.Tensor, rows: torch.Tensor, state: SamplingState, out: Descriptions
) -> None:
    """Compute in plain torch; the CPU path."""
    logits = logits.float()
    normaliser = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, token_ids.clamp(min=0)[:, None])
    out.logprobs.copy_((chosen - normaliser)[:, 0])
    out.ranks.copy_((logits > chosen).sum(-1) + 1)
    num_top = min(int(state.num_top[rows].max()), logits.shape[1])
    top = order_key_reference(logits).sort(dim=-1, descending=True, stable=True).indices[:, :num_top]
    out.top_ids[:, :num_top] = top.int()
    out.top_logprobs[:, :num_top] = logits.gather(1, top) - normaliser
    out.listed_logprobs.copy_(logits.gather(1, state.listed[rows].clamp(min=0).long()) - normaliser)


@triton.jit
def describe_tiles_kernel(
    logits_ptr,
    tokens_ptr,
    rows_ptr,
    flags_ptr,
    num_top_ptr,
    peaks_ptr,
    weights_ptr,
    num_larger_ptr,
    lists_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    MAX_TOP: tl.constexpr,
):
    """One program for each (tile, sequence).

    peaks, weights: the tile's largest logit, and the sum of exp(logit - peak); num_larger: how many exceed
    the chosen token's. lists: [num_seqs, NUM_TILES, MAX_TOP] int64, descending: the logit's `order_key`, then
    the complement of the token.
    """
    tile = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    if (tl.load(flags_ptr + row) & REPORTED) == 0:
        return
    tokens = tile * TILE + tl.arange(0, TILE)
    is_token = tokens < VOCAB
    x = tl.load(logits_ptr + seq * logits_stride + tokens, mask=is_token, other=float("-inf")).to(tl.float32)
    token = tl.maximum(tl.load(tokens_ptr + seq), 0)
    chosen = tl.load(logits_ptr + seq * logits_stride + token).to(tl.float32)
    out = seq * NUM_TILES + tile
    peak = tl.max(x, axis=0)
    tl.store(peaks_ptr + out, peak)
    shares = tl.exp(x - tl.where(peak == float("-inf"), 0.0, peak))
    tl.store(weights_ptr + out, tl.sum(shares, axis=0))
    tl.store(num_larger_ptr + out, tl.sum((x > chosen).to(tl.int32), axis=0))
    places = (order_key(x).to(tl.int64) << 32) | (0x7FFFFFFF - tokens).to(tl.int64)
    places = tl.where(is_token, places, LOWEST_LONG)
    num_top = tl.minimum(tl.load(num_top_ptr + row), TILE)
    for index in range(num_top):
        place = tl.max(places, axis=0)
        tl.store(lists_ptr + out * MAX_TOP + index, place)
        places = tl.where(places == place, LOWEST_LONG, places)


@triton.jit
def merge_lists_kernel(
    logits_ptr,
    tokens_ptr,
    rows_ptr,
    flags_ptr,
    num_top_ptr,
    listed_ptr,
    peaks_ptr,
    weights_ptr,
    num_larger_ptr,
    lists_ptr,
    logprobs_ptr,
    ranks_ptr,
    top_ids_ptr,
    top_logprobs_ptr,
    listed_logprobs_ptr,
    logits_stride,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    MAX_TOP: tl.constexpr,
    MAX_LISTED: tl.constexpr,
):
    """One program a sequence."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    if (tl.load(flags_ptr + row) & REPORTED) == 0:
        return
    tiles = tl.arange(0, BLOCK_TILES)
    is_tile = tiles < NUM_TILES
    first = seq * NUM_TILES
    peaks = tl.load(peaks_ptr + first + tiles, mask=is_tile, other=float("-inf"))
    weights = tl.load(weights_ptr + first + tiles, mask=is_tile, other=0.0)
    peak = tl.max(peaks, axis=0)
    total = tl.sum((weights * tl.exp(peaks - peak)).to(tl.float64), axis=0)
    normaliser = peak + tl.log(total.to(tl.float32))
    logits_ptr += seq * logits_stride
    token = tl.maximum(tl.load(tokens_ptr + seq), 0)
    tl.store(logprobs_ptr + seq, tl.load(logits_ptr + token).to(tl.float32) - normaliser)
    num_larger = tl.load(num_larger_ptr + first + tiles, mask=is_tile, other=0)
    tl.store(ranks_ptr + seq, tl.sum(num_larger, axis=0) + 1)

    listed = tl.load(listed_ptr + row * MAX_LISTED + tl.arange(0, MAX_LISTED))
    values = tl.load(logits_ptr + listed, mask=listed >= 0, other=0.0).to(tl.float32)
    tl.store(listed_logprobs_ptr + seq * MAX_LISTED + tl.arange(0, MAX_LISTED), values - normaliser)

    num_top = tl.load(num_top_ptr + row)
    taken = tl.zeros([BLOCK_TILES], dtype=tl.int32)
    lists = lists_ptr + (first + tiles) * MAX_TOP
    for index in range(num_top):
        heads = tl.load(lists + taken, mask=is_tile & (taken < num_top), other=LOWEST_LONG)
        place = tl.max(heads, axis=0)
        taken += (heads == place).to(tl.int32)
        best = 0x7FFFFFFF - (place & 0x7FFFFFFF)
        tl.store(top_ids_ptr + seq * MAX_TOP + index, best.to(tl.int32))
        value = tl.load(logits_ptr + best, mask=best < VOCAB, other=0.0).to(tl.float32)
        tl.store(top_logprobs_ptr + seq * MAX_TOP + index, value - normaliser)


def describe_tokens_triton(
    logits: torch.Tensor, token_ids: torch.Tensor, rows: torch.Tensor, state: SamplingState, out: Descriptions
) -> None:
    """Launch the kernels."""
    state.check(logits, rows)
    num_seqs, vocab = logits.shape
    assert token_ids.shape == out.logprobs.shape == (num_seqs,)
    if num_seqs == 0:
        return
    num_tiles = triton.cdiv(vocab, TILE)

    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty((num_seqs, num_tiles, *shape), dtype=dtype, device=logits.device)

    tiles = (
        empty(dtype=torch.float32),
        empty(dtype=torch.float32),
        empty(dtype=torch.int32),
        empty(MAX_TOP, dtype=torch.int64),
    )
    asked = (logits, token_ids, rows, state.flags, state.num_top)
    describe_tiles_kernel[(num_tiles, num_seqs)](
        *asked,
        *tiles,
        logits.stride(0),
        VOCAB=vocab,
        NUM_TILES=num_tiles,
        TILE=TILE,
        MAX_TOP=MAX_TOP,
        num_warps=NUM_WARPS,
    )
    merge_lists_kernel[(num_seqs,)](
        *asked,
        state.listed,
        *tiles,
        *out,
        logits.stride(0),
        VOCAB=vocab,
        NUM_TILES=num_tiles,
        BLOCK_TILES=triton.next_power_of_2(num_tiles),
        MAX_TOP=MAX_TOP,
        MAX_LISTED=MAX_LISTED,
        num_warps=2,
    )


def describe_tokens(
    logits: torch.Tensor, token_ids: torch.Tensor, rows: torch.Tensor, state: SamplingState, out: Descriptions
) -> None:
    """Write into `out` what the rows ask to know of the tokens that were chosen for them."""
    compute = describe_tokens_triton if logits.is_cuda else describe_tokens_reference
    compute(logits, token_ids, rows, state, out)

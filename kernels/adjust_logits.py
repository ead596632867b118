"""What rows ask to be changed about their logits before a token is chosen: penalties, masks and edits.

    y = (x / repetition where x > 0, x * repetition elsewhere)    where the token is known, else x
        - frequency * count - presence * (count > 0)
    y = -inf                                                     where the mask's bit is 0
    y += value                                                   for each edit

logits: [num_seqs, vocab] of any float type, unchanged; rows: [num_seqs] int64, where -1 is padding; the
tables are those of `sampling_state.py`. Returns y [num_seqs, vocab] float32 and the peaks of x
[num_seqs, num_tiles] float32, +inf where a tile holds NaN or +inf. Rows that are not ADJUSTED are not
computed. Bytes of the others: logits, counts and masks read once, and float32 written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.sampling_state import ADJUSTED, EDITED, MASKED, PENALISED, TILE, SamplingState

NUM_WARPS = 8


def adjust_logits_reference(logits: torch.Tensor, rows: torch.Tensor, state: SamplingState) -> torch.Tensor:
    """Compute in plain torch, with the rows that ask for nothing as they are; the CPU path."""
    y = logits.float()
    flags = state.flags[rows][:, None]
    counts = state.counts[rows].float()
    repetition, presence, frequency = state.penalties[rows][:, :, None].unbind(1)
    repeated = torch.where(y > 0, y / repetition, y * repetition)
    penalised = torch.where(counts != 0, repeated, y)
    penalised = penalised - frequency * counts.clamp(min=0) - presence * (counts > 0)
    y = torch.where((flags & PENALISED.value) > 0, penalised, y)
    bits = torch.arange(32, dtype=torch.int32, device=y.device)
    is_allowed = (state.masks[rows][:, :, None] >> bits & 1).flatten(1)[:, : y.shape[1]].bool()
    y = torch.where(is_allowed | ((flags & MASKED.value) == 0), y, -torch.inf)
    tokens, values = state.edit_tokens[rows], state.edit_values[rows]
    is_restrained = (state.num_tokens[rows] < state.restrained_until[rows])[:, None]
    counts_now = ((flags & EDITED.value) > 0) & (tokens >= 0) & (values.isfinite() | is_restrained)
    return y.scatter_add_(1, tokens.clamp(min=0).long(), torch.where(counts_now, values, 0.0))


@triton.jit
def adjust_logits_kernel(
    logits_ptr,
    rows_ptr,
    flags_ptr,
    penalties_ptr,
    counts_ptr,
    masks_ptr,
    adjusted_ptr,
    raw_peaks_ptr,
    logits_stride,
    WORDS: tl.constexpr,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program for each (tile, sequence)."""
    tile = tl.program_id(0)
    seq = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row)
    if (flags & ADJUSTED) == 0:
        return
    tokens = tile * TILE + tl.arange(0, TILE)
    is_token = tokens < VOCAB
    x = tl.load(logits_ptr + seq * logits_stride + tokens, mask=is_token, other=float("-inf")).to(tl.float32)
    is_bad = (x != x) | (x == float("inf"))
    peak = tl.max(tl.where(is_bad, float("inf"), x), axis=0)
    tl.store(raw_peaks_ptr + seq * NUM_TILES + tile, peak)
    if (flags & PENALISED) != 0:
        counts = tl.load(counts_ptr + row * VOCAB + tokens, mask=is_token, other=0).to(tl.float32)
        repetition = tl.load(penalties_ptr + row * 3)
        presence = tl.load(penalties_ptr + row * 3 + 1)
        frequency = tl.load(penalties_ptr + row * 3 + 2)
        repeated = tl.where(x > 0, tl.math.div_rn(x, tl.zeros_like(x) + repetition), x * repetition)
        x = tl.where(counts != 0, repeated, x)
        x -= frequency * tl.maximum(counts, 0.0)
        x -= tl.where(counts > 0, presence, 0.0)
    if (flags & MASKED) != 0:
        words = tl.load(masks_ptr + row * WORDS + tokens // 32, mask=is_token, other=0)
        x = tl.where(((words >> (tokens % 32)) & 1) == 0, float("-inf"), x)
    tl.store(adjusted_ptr + seq * VOCAB + tokens, x, mask=is_token)


@triton.jit
def edit_logits_kernel(
    rows_ptr,
    flags_ptr,
    num_tokens_ptr,
    restrained_until_ptr,
    edit_tokens_ptr,
    edit_values_ptr,
    adjusted_ptr,
    VOCAB: tl.constexpr,
    MAX_EDITS: tl.constexpr,
):
    """One program a sequence. A token may be edited twice, hence the atomic sums; -inf absorbs the other."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        return
    if (tl.load(flags_ptr + row) & EDITED) == 0:
        return
    edits = row * MAX_EDITS + tl.arange(0, MAX_EDITS)
    tokens = tl.load(edit_tokens_ptr + edits)
    values = tl.load(edit_values_ptr + edits)
    is_restrained = tl.load(num_tokens_ptr + row) < tl.load(restrained_until_ptr + row)
    values = tl.where(values > float("-inf"), values, tl.where(is_restrained, float("-inf"), 0.0))
    tl.atomic_add(adjusted_ptr + seq * VOCAB + tokens, values, mask=tokens >= 0, sem="relaxed")


def adjust_logits_triton(
    logits: torch.Tensor, rows: torch.Tensor, state: SamplingState
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernels."""
    state.check(logits, rows)
    num_seqs, vocab = logits.shape
    num_tiles = triton.cdiv(vocab, TILE)
    adjusted = torch.empty((num_seqs, vocab), dtype=torch.float32, device=logits.device)
    raw_peaks = torch.empty((num_seqs, num_tiles), dtype=torch.float32, device=logits.device)
    # Products are rounded before they are subtracted, as torch does.
    adjust_logits_kernel[(num_tiles, num_seqs)](
        logits,
        rows,
        state.flags,
        state.penalties,
        state.counts,
        state.masks,
        adjusted,
        raw_peaks,
        logits.stride(0),
        WORDS=state.masks.shape[1],
        VOCAB=vocab,
        NUM_TILES=num_tiles,
        TILE=TILE,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    edit_logits_kernel[(num_seqs,)](
        rows,
        state.flags,
        state.num_tokens,
        state.restrained_until,
        state.edit_tokens,
        state.edit_values,
        adjusted,
        VOCAB=vocab,
        MAX_EDITS=state.edit_tokens.shape[1],
        num_warps=4,
    )
    return adjusted, raw_peaks

"""Forbid tokens: the logits of those whose bit is 0 become -inf, in place.

    logits[rows[i], t] = -inf    where bit t % 32 of masks[i, t // 32] is 0

logits: [num_seqs, vocab] of any float type; rows: [num_masks] int64, distinct; masks: [num_masks, words]
int32 with words = ceil(vocab / 32), least significant bit first. Other rows stay as they are. Bytes moved:
the masks, and what is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.launch import bitmask_launch

BITS = 32


def token_bitmask_reference(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Compute in plain torch; the CPU path."""
    bits = torch.arange(BITS, dtype=torch.int32, device=masks.device)
    is_allowed = (masks[:, :, None] >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
    logits[rows] = logits[rows].masked_fill_(~is_allowed, -torch.inf)


@triton.jit
def token_bitmask_kernel(
    logits_ptr,
    rows_ptr,
    masks_ptr,
    logits_stride,
    masks_stride,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each (mask, block of the vocabulary)."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_token = tokens < VOCAB
    words = tl.load(masks_ptr + seq * masks_stride + tokens // 32, mask=is_token, other=0)
    is_forbidden = ((words >> (tokens % 32)) & 1) == 0
    tl.store(logits_ptr + row * logits_stride + tokens, float("-inf"), mask=is_token & is_forbidden)


def token_bitmask_triton(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Launch the kernel."""
    num_masks, num_words = masks.shape
    vocab = logits.shape[1]
    assert rows.shape == (num_masks,), (rows.shape, masks.shape)
    assert num_words == triton.cdiv(vocab, BITS), (num_words, vocab)
    assert rows.dtype == torch.int64, rows.dtype
    assert masks.dtype == torch.int32, masks.dtype
    assert logits.stride(1) == masks.stride(1) == 1
    if num_masks == 0:
        return
    launch = bitmask_launch()
    token_bitmask_kernel[(num_masks, triton.cdiv(vocab, launch.block))](
        logits,
        rows,
        masks,
        logits.stride(0),
        masks.stride(0),
        VOCAB=vocab,
        BLOCK=launch.block,
        num_warps=launch.num_warps,
    )


def token_bitmask(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Forbid tokens in some rows of logits, in place."""
    compute = token_bitmask_triton if logits.is_cuda else token_bitmask_reference
    compute(logits, rows, masks)

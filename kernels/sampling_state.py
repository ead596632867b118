"""What the sampling kernels know of each row, in tables that stay on the device.

A row's flags say which of its entries count; the others may hold anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

PENALISED = tl.constexpr(1)
MASKED = tl.constexpr(2)
EDITED = tl.constexpr(4)
ADJUSTED = tl.constexpr(7)
"""Any of these: the row's tokens are not chosen by the model's own logits."""
FILTERED = tl.constexpr(8)
REPORTED = tl.constexpr(16)

TILE = 4096
"""Tokens of the vocabulary that a program goes over."""
GROUP = 256
"""Tokens of a tile whose largest logit is known."""
MAX_EDITS = 512
"""Logit biases, and tokens that end a sequence, of a row."""
MAX_TOP = 256
"""Most likely tokens that a row reports."""
MAX_LISTED = 128
"""Tokens that a row reports by name."""
LONGEST_SHORT_COUNT = (1 << 15) - 1


class SamplingState(NamedTuple):
    """Tables by row. All are written when a sequence takes its row, `masks` also before a step."""

    temperatures: torch.Tensor
    """[num_rows] float32; 0 is greedy."""
    keys: torch.Tensor
    """[num_rows] int64, see `uniform.py`."""
    num_tokens: torch.Tensor
    """[num_rows] int64: known tokens. Sampling adds 1."""
    token_table: torch.Tensor
    """[num_rows, max_tokens] int32: the known tokens. Sampling appends one."""
    flags: torch.Tensor
    """[num_rows] int32."""
    filters: torch.Tensor
    """[num_rows, 3] float32: top_k, top_p and min_p of a FILTERED row, which has a temperature; 0, 1 and 0
    keep all."""
    penalties: torch.Tensor
    """[num_rows, 3] float32: for repetition, presence and frequency."""
    counts: torch.Tensor
    """[num_rows, vocab] int16 or int32: how often a PENALISED row generated a token; -1 where it stands in
    the prompt alone. Sampling counts its token."""
    masks: torch.Tensor
    """[num_rows, ceil(vocab / 32)] int32: a bit for each token that a MASKED row may choose."""
    edit_tokens: torch.Tensor
    """[num_rows, MAX_EDITS] int32: tokens whose logits an EDITED row changes; -1 is none."""
    edit_values: torch.Tensor
    """[num_rows, MAX_EDITS] float32: what is added. -inf counts while the row has less than
    `restrained_until` tokens; a token has at most one other value."""
    restrained_until: torch.Tensor
    """[num_rows] int64."""
    num_top: torch.Tensor
    """[num_rows] int32: the most likely tokens that a REPORTED row asks for."""
    listed: torch.Tensor
    """[num_rows, MAX_LISTED] int32: tokens that a REPORTED row names; -1 is none."""

    @staticmethod
    def allocate(
        temperatures: torch.Tensor,
        keys: torch.Tensor,
        num_tokens: torch.Tensor,
        token_table: torch.Tensor,
        vocab_size: int,
    ) -> SamplingState:
        """Return tables for the rows of the tables that exist, no row of which asks for anything yet."""
        num_rows, max_tokens = token_table.shape
        device = token_table.device

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(num_rows, *shape, dtype=dtype, device=device)

        return SamplingState(
            temperatures,
            keys,
            num_tokens,
            token_table,
            flags=zeros(dtype=torch.int32),
            filters=zeros(3, dtype=torch.float32),
            penalties=zeros(3, dtype=torch.float32),
            counts=zeros(vocab_size, dtype=torch.int16 if max_tokens <= LONGEST_SHORT_COUNT else torch.int32),
            masks=zeros(triton.cdiv(vocab_size, 32), dtype=torch.int32),
            edit_tokens=zeros(MAX_EDITS, dtype=torch.int32),
            edit_values=zeros(MAX_EDITS, dtype=torch.float32),
            restrained_until=zeros(dtype=torch.int64),
            num_top=zeros(dtype=torch.int32),
            listed=zeros(MAX_LISTED, dtype=torch.int32),
        )

    def check(self, logits: torch.Tensor, rows: torch.Tensor) -> None:
        """Assert what the kernels rely on."""
        num_seqs, vocab = logits.shape
        assert rows.shape == (num_seqs,), (rows.shape, num_seqs)
        assert logits.stride(1) == self.token_table.stride(1) == 1
        assert self.counts.shape[1] == vocab, (self.counts.shape, vocab)
        assert rows.dtype == self.keys.dtype == self.num_tokens.dtype == torch.int64
        assert self.temperatures.dtype == torch.float32
        assert self.token_table.dtype == torch.int32


@triton.jit
def order_key(x):
    """An int32 for each float32 but NaN: equal for equal numbers, and in the same order."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_value(key):
    """The float32 of a key of a number: the inverse of `order_key`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def load_logits(logits_ptr, adjusted_ptr, is_adjusted, seq, tokens, logits_stride, VOCAB: tl.constexpr):
    """Logits of one sequence in float32, -inf beyond the vocabulary."""
    is_token = tokens < VOCAB
    mine = tl.load(adjusted_ptr + seq * VOCAB + tokens, mask=is_token & is_adjusted, other=float("-inf"))
    raw = tl.load(
        logits_ptr + seq * logits_stride + tokens, mask=is_token & (is_adjusted == 0), other=float("-inf")
    )
    return tl.where(is_adjusted, mine, raw.to(tl.float32))


def order_key_reference(x: torch.Tensor) -> torch.Tensor:
    """`order_key` in plain torch."""
    bits = torch.where(x == 0, 0.0, x).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)

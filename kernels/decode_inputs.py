"""Inputs of a step in which sequences compute one token each, from tables that stay on the device.

For sequence i in row r = rows[i], with n = num_tokens[r] known tokens, the last of which is to be computed:

    token_ids[i] = token_table[r, n - 1]    positions[i] = n - 1    context_lens[i] = n
    slots[i] = block_table[r, (n - 1) // block_size] * block_size + (n - 1) % block_size
    block_tables[i] = block_table[r], as far as the context goes

rows: [num_seqs] int64, where -1 is padding: no slot, and a context of 0; num_tokens: [num_rows] int64;
token_table: [num_rows, max_tokens] int32; block_table: [num_rows, max_blocks] int32.
Moves two block tables' worth of int32 a sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

BLOCK = 256
NUM_WARPS = 2


class DecodeInputs(NamedTuple):
    """What `decode_inputs` writes, for up to [num_seqs] sequences."""

    token_ids: torch.Tensor
    """int32."""
    positions: torch.Tensor
    """int64."""
    slots: torch.Tensor
    """int64; -1 is nowhere."""
    context_lens: torch.Tensor
    """int32."""
    block_tables: torch.Tensor
    """[num_seqs, max_blocks] int32; entries past a context may hold anything."""

    @staticmethod
    def allocate(num_seqs: int, max_blocks: int, device: torch.device) -> DecodeInputs:
        """Return memory for the inputs of `num_seqs` sequences."""
        return DecodeInputs(
            token_ids=torch.zeros(num_seqs, dtype=torch.int32, device=device),
            positions=torch.zeros(num_seqs, dtype=torch.int64, device=device),
            slots=torch.full((num_seqs,), -1, dtype=torch.int64, device=device),
            context_lens=torch.zeros(num_seqs, dtype=torch.int32, device=device),
            block_tables=torch.zeros(num_seqs, max_blocks, dtype=torch.int32, device=device),
        )

    def head(self, num_seqs: int) -> DecodeInputs:
        """Return the part of the first sequences."""
        return DecodeInputs(*(each[:num_seqs] for each in self))


def decode_inputs_reference(
    rows: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    out: DecodeInputs,
) -> None:
    """Compute in plain torch; the CPU path."""
    is_padding = rows < 0
    rows = rows.clamp(min=0)
    lens = num_tokens[rows].masked_fill(is_padding, 0)
    positions = (lens - 1).clamp(min=0)
    blocks = block_table[rows, positions // block_size].long()
    out.token_ids.copy_(token_table[rows, positions].masked_fill(is_padding, 0))
    out.positions.copy_(positions)
    out.slots.copy_((blocks * block_size + positions % block_size).masked_fill(is_padding, -1))
    out.context_lens.copy_(lens)
    out.block_tables.copy_(block_table[rows])


@triton.jit
def decode_inputs_kernel(
    rows_ptr,
    num_tokens_ptr,
    token_table_ptr,
    block_table_ptr,
    token_ids_ptr,
    positions_ptr,
    slots_ptr,
    context_lens_ptr,
    block_tables_ptr,
    token_stride,
    table_stride,
    out_stride,
    BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a sequence."""
    seq = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + seq)
    if row < 0:
        tl.store(token_ids_ptr + seq, 0)
        tl.store(positions_ptr + seq, 0)
        tl.store(slots_ptr + seq, -1)
        tl.store(context_lens_ptr + seq, 0)
        return
    context_len = tl.load(num_tokens_ptr + row)
    position = context_len - 1
    table_ptr = block_table_ptr + row * table_stride
    block = tl.load(table_ptr + position // BLOCK_SIZE).to(tl.int64)
    tl.store(token_ids_ptr + seq, tl.load(token_table_ptr + row * token_stride + position))
    tl.store(positions_ptr + seq, position)
    tl.store(slots_ptr + seq, block * BLOCK_SIZE + position % BLOCK_SIZE)
    tl.store(context_lens_ptr + seq, context_len.to(tl.int32))
    num_blocks = (position // BLOCK_SIZE + 1).to(tl.int32)
    for start in range(0, num_blocks, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < num_blocks
        entries = tl.load(table_ptr + columns, mask=mask)
        tl.store(block_tables_ptr + seq * out_stride + columns, entries, mask=mask)


def decode_inputs_triton(
    rows: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    out: DecodeInputs,
) -> None:
    """Launch the kernel."""
    num_seqs = rows.shape[0]
    assert rows.dtype == num_tokens.dtype == torch.int64
    assert token_table.dtype == block_table.dtype == torch.int32
    assert token_table.stride(1) == block_table.stride(1) == out.block_tables.stride(1) == 1
    assert out.token_ids.shape == (num_seqs,)
    assert out.block_tables.shape == (num_seqs, block_table.shape[1])
    if num_seqs == 0:
        return
    decode_inputs_kernel[(num_seqs,)](
        rows,
        num_tokens,
        token_table,
        block_table,
        out.token_ids,
        out.positions,
        out.slots,
        out.context_lens,
        out.block_tables,
        token_table.stride(0),
        block_table.stride(0),
        out.block_tables.stride(0),
        BLOCK_SIZE=block_size,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )


def decode_inputs(
    rows: torch.Tensor,
    num_tokens: torch.Tensor,
    token_table: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    out: DecodeInputs,
) -> None:
    """Write into `out` what the sequences in `rows` need to compute their last known token."""
    compute = decode_inputs_triton if rows.is_cuda else decode_inputs_reference
    compute(rows, num_tokens, token_table, block_table, block_size, out)

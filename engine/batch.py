"""The sequences on the device: what each row holds, and the inputs of a step.

A plan names what changed, so a step sends to the device a few numbers for each chunk and each change,
never a whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from engine.forward_inputs import ForwardInputs
from kernels.paged_attention import AttentionMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.messages import SamplingParams
    from engine.step import Admission, Chunk, StepPlan


@dataclass(slots=True)
class Row:
    """What the host knows of one sequence."""

    sampling: SamplingParams
    num_prompt_tokens: int
    num_blocks: int = 0


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A step's chunks on the device."""

    forward: ForwardInputs
    rows: Tensor
    """[num_chunks] int64: the row of each chunk."""
    ends: Tensor
    """[num_chunks] int64: the position after each chunk."""
    last_tokens: Tensor
    """[num_chunks] int64: where the last token of each chunk stands among the step's tokens."""


class Batch:
    """Rows of token ids and block tables.

    Args:
        num_rows: sequences at once.
        max_model_len: tokens of a sequence at most.
        block_size: tokens of a block.
        device: where the model computes.
    """

    def __init__(self, num_rows: int, max_model_len: int, block_size: int, device: torch.device) -> None:
        self._device = device
        self._block_size = block_size
        self._rows: list[Row | None] = [None] * num_rows
        num_blocks = -(-max_model_len // block_size)
        self.token_table = torch.zeros(num_rows, max_model_len + 1, dtype=torch.int32, device=device)
        """[num_rows, max_model_len + 1]: the known tokens of each sequence."""
        self._block_table = torch.zeros(num_rows, num_blocks, dtype=torch.int32, device=device)

    def row(self, row: int) -> Row:
        """Return the sequence in a row, which must be taken."""
        sequence = self._rows[row]
        assert sequence is not None, row
        return sequence

    def apply(self, plan: StepPlan) -> None:
        """Take over the plan's changes."""
        for row in plan.released_rows:
            assert self._rows[row] is not None, row
            self._rows[row] = None
        for admission in plan.admissions:
            self._admit(admission)
        changed = [chunk for chunk in plan.chunks if chunk.new_block_ids]
        if changed:
            self._append_blocks(changed)

    def inputs(self, chunks: Sequence[Chunk]) -> StepInputs:
        """Return the inputs of a forward pass over the chunks."""
        query_lens = [chunk.num_tokens for chunk in chunks]
        context_lens = [chunk.start + chunk.num_tokens for chunk in chunks]
        query_ends = list(accumulate(query_lens))
        num_tokens = query_ends[-1]
        rows, ends, query_end = self.upload([[chunk.row for chunk in chunks], context_lens, query_ends])
        if num_tokens == len(chunks):
            token_rows, positions = rows, ends - 1
        else:
            lens = self.upload([query_lens])[0]
            token_rows = rows.repeat_interleave(lens, output_size=num_tokens)
            offsets = (ends - query_end).repeat_interleave(lens, output_size=num_tokens)
            positions = torch.arange(num_tokens, device=self._device) + offsets
        blocks = self._block_table[token_rows, positions // self._block_size].long()
        forward = ForwardInputs(
            token_ids=self.token_table[token_rows, positions],
            positions=positions,
            slots=blocks * self._block_size + positions % self._block_size,
            attention=AttentionMetadata(
                query_start=torch.nn.functional.pad(query_end.int(), (1, 0)),
                context_lens=ends.int(),
                block_tables=self._block_table[rows, : -(-max(context_lens) // self._block_size)],
                query_lens=query_lens,
                context_lens_list=context_lens,
                num_decodes=next((i for i, size in enumerate(query_lens) if size > 1), len(query_lens)),
            ),
        )
        return StepInputs(forward, rows, ends, last_tokens=query_end - 1)

    def append(self, rows: Tensor, positions: Tensor, token_ids: Tensor) -> None:
        """Write one new token into each of the rows, all [num_rows].

        The row of a failed sequence gets a -1; the scheduler releases it before the next step.
        """
        self.token_table[rows, positions] = token_ids.int()

    def upload(self, values: list[list[int]]) -> Tensor:
        """Return int64 values on the device; the copy does not wait for what runs there."""
        tensor = torch.tensor(values, dtype=torch.int64)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _admit(self, admission: Admission) -> None:
        row = admission.row
        assert self._rows[row] is None, row
        self._rows[row] = Row(admission.sampling, admission.num_prompt_tokens)
        known = torch.tensor(admission.token_ids, dtype=torch.int32)
        self.token_table[row, : len(known)] = known.to(self._device)

    def _append_blocks(self, chunks: Sequence[Chunk]) -> None:
        rows: list[int] = []
        columns: list[int] = []
        block_ids: list[int] = []
        for chunk in chunks:
            sequence = self.row(chunk.row)
            first = sequence.num_blocks
            sequence.num_blocks += len(chunk.new_block_ids)
            rows += [chunk.row] * len(chunk.new_block_ids)
            columns += range(first, sequence.num_blocks)
            block_ids += chunk.new_block_ids
        changes = self.upload([rows, columns, block_ids])
        self._block_table[changes[0], changes[1]] = changes[2].int()

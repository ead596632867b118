"""The sequences on the device: what each row holds, and the inputs of a step.

A plan names what changed, so a step sends to the device a few numbers for each chunk and each change,
never a whole sequence.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from engine.forward_inputs import ForwardInputs
from engine.sampler import is_plain
from engine.upload import to_device, upload
from kernels.paged_attention import AttentionMetadata
from kernels.uniform import seed_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.messages import Pooling, SamplingParams
    from engine.step import Admission, Chunk, StepPlan


ALIGNMENT = 4
"""Numbers, of 32 bits or of 64, that take a multiple of 16 bytes."""


@dataclass(slots=True)
class Row:
    """What the host knows of one sequence."""

    sampling: SamplingParams
    num_prompt_tokens: int
    is_plain: bool
    """Whether its tokens are chosen by temperature alone, and only they are reported."""
    pooling: Pooling | None
    adapter_slot: int = 0
    num_blocks: int = 0
    vector_sum: Tensor | None = None
    """[hidden_size] float32: of the tokens so far, where the mean is asked for."""


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
    adapter_slots: Tensor | None
    """[num_tokens] int32: where each token's LoRA adapter lies; None where no token has one."""


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
        self.block_size = block_size
        self.max_model_len = max_model_len
        self._rows: list[Row | None] = [None] * num_rows
        num_blocks = -(-max_model_len // block_size)
        self.token_table = torch.zeros(num_rows, max_model_len + 1, dtype=torch.int32, device=device)
        """[num_rows, max_model_len + 1]: the known tokens of each sequence."""
        self.num_tokens = torch.zeros(num_rows, dtype=torch.int64, device=device)
        """[num_rows]: how many they are."""
        self.temperatures = torch.zeros(num_rows, dtype=torch.float32, device=device)
        """[num_rows]: 0 is greedy."""
        self.keys = torch.zeros(num_rows, dtype=torch.int64, device=device)
        """[num_rows]: what `kernels.uniform` makes of the seeds."""
        self.adapter_slots = torch.zeros(num_rows + 1, dtype=torch.int32, device=device)
        """[num_rows + 1]: where each sequence's LoRA adapter lies; 0 is none. The last row is padding's."""
        self.block_table = torch.zeros(num_rows, num_blocks, dtype=torch.int32, device=device)
        """[num_rows, num_blocks]: where each sequence's keys and values are."""

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
        if plan.admissions:
            self._admit(plan.admissions)
        changed = [chunk for chunk in plan.chunks if chunk.new_block_ids]
        if changed:
            self._append_blocks(changed)

    def inputs(self, chunks: Sequence[Chunk]) -> StepInputs:
        """Return the inputs of a forward pass over the chunks."""
        query_lens = [chunk.num_tokens for chunk in chunks]
        context_lens = [chunk.start + chunk.num_tokens for chunk in chunks]
        query_ends = list(accumulate(query_lens))
        num_chunks, num_tokens = len(chunks), query_ends[-1]
        numbers = self._upload_aligned(
            [0, *query_ends],
            context_lens,
            query_lens,
            [end - 1 for end in query_ends],
            [chunk.row for chunk in chunks],
            [context_len - end for context_len, end in zip(context_lens, query_ends, strict=True)],
        )
        _, ends, lens, last_tokens, rows, _ = numbers[:, :num_chunks]
        if num_tokens == num_chunks:
            token_rows, positions = rows, ends - 1
        else:
            rows_and_shifts = numbers[4:, :num_chunks]
            token_rows, shifts = rows_and_shifts.repeat_interleave(lens, dim=1, output_size=num_tokens)
            positions = torch.arange(num_tokens, device=self._device) + shifts
        blocks = self.block_table[token_rows, positions // self.block_size]
        query_start, ends_int32 = numbers[:2].int()
        forward = ForwardInputs(
            token_ids=self.token_table[token_rows, positions],
            positions=positions,
            slots=(positions % self.block_size).add(blocks, alpha=self.block_size),
            attention=AttentionMetadata(
                query_start=query_start[: num_chunks + 1],
                context_lens=ends_int32[:num_chunks],
                block_tables=self.block_table[rows][:, : -(-max(context_lens) // self.block_size)],
                query_lens=query_lens,
                context_lens_list=context_lens,
                num_decodes=next((i for i, size in enumerate(query_lens) if size > 1), len(query_lens)),
            ),
        )
        slots = self.adapter_slots[token_rows] if self.use_adapters(chunks) else None
        return StepInputs(forward, rows, ends, last_tokens, slots)

    def use_adapters(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a sequence among these has a LoRA adapter."""
        return any(self.row(chunk.row).adapter_slot for chunk in chunks)

    def append(self, rows: Tensor, positions: Tensor, token_ids: Tensor) -> None:
        """Write one new token into each of the rows, all [num_rows].

        The row of a failed sequence gets token 0, lest a step that was planned meanwhile reads a -1.
        """
        self.token_table[rows, positions] = token_ids.clamp(min=0).int()
        self.num_tokens[rows] = positions + 1

    def upload(
        self, values: Sequence[Sequence[float]] | Sequence[int], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Return values on the device; the copy does not wait for what runs there."""
        return upload(values, dtype, self._device)

    def _upload_aligned(self, *rows: Sequence[int]) -> Tensor:
        """Return rows of numbers on the device, padded so that each begins at a multiple of 16 bytes.

        Triton compiles kernels anew for addresses that do not.
        """
        width = -(-max(map(len, rows)) // ALIGNMENT) * ALIGNMENT
        return self.upload([[*row, *[0] * (width - len(row))] for row in rows])

    def _admit(self, admissions: Sequence[Admission]) -> None:
        for admission in admissions:
            assert self._rows[admission.row] is None, admission.row
            sampling = admission.sampling
            self._rows[admission.row] = Row(
                sampling,
                admission.num_prompt_tokens,
                is_plain(sampling),
                admission.pooling,
                admission.adapter_slot,
            )
        lens = [len(admission.token_ids) for admission in admissions]
        known = array("I")
        for admission in admissions:
            known.extend(admission.token_ids)
        uploaded = to_device(torch.frombuffer(known, dtype=torch.int32), self._device)
        for admission, tokens in zip(admissions, torch.split(uploaded, lens), strict=True):
            self.token_table[admission.row, : len(tokens)] = tokens
        keys = seed_keys([admission.sampling.seed for admission in admissions], torch.device("cpu"))
        slots = [admission.adapter_slot for admission in admissions]
        rows, num_tokens, new_keys, new_slots = self.upload(
            [[each.row for each in admissions], lens, keys.tolist(), slots]
        )
        temperatures = self.upload([[each.sampling.temperature for each in admissions]], torch.float32)
        self.num_tokens[rows] = num_tokens
        self.keys[rows] = new_keys
        self.adapter_slots[rows] = new_slots.int()
        self.temperatures[rows] = temperatures[0]

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
        self.block_table[changes[0], changes[1]] = changes[2].int()

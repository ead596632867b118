"""What the sequences ask of sampling, as the kernels read it: tables by row that stay on the device.

A sequence's entries are written when it takes its row, and only where it asks for something. A grammar's mask
is written before each step that samples.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from engine.sampler import is_filtered, is_penalised
from engine.upload import to_device, upload
from kernels.sampling_state import (
    EDITED,
    FILTERED,
    MASKED,
    MAX_EDITS,
    MAX_LISTED,
    MAX_TOP,
    PENALISED,
    REPORTED,
    SamplingState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.batch import Batch
    from engine.messages import SamplingParams
    from engine.step import Admission, Chunk


class SamplingRows:
    """Fills in the tables of a batch's rows."""

    def __init__(self, batch: Batch, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._device = batch.token_table.device
        self._flags = [0] * len(batch.num_tokens)
        self._allowed: dict[int, Tensor] = {}  # of the rows that name tokens, as `SamplingState.masks`
        self._unserved: set[int] = set()
        self.state = SamplingState.allocate(
            batch.temperatures, batch.keys, batch.num_tokens, batch.token_table, vocab_size
        )

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Write what these sequences ask for. Their tokens are in the token table."""
        self._unserved.difference_update(each.row for each in admissions)
        self._unserved.update(each.row for each in admissions if not _fits(each.sampling))
        changed = [each for each in admissions if self._flags[each.row] or _flags(each.sampling)]
        if not changed:
            return
        for each in changed:
            self._flags[each.row] = _flags(each.sampling)
            self._allowed.pop(each.row, None)
        rows, flags, restrained_until, num_top = upload(
            [
                [each.row for each in changed],
                [self._flags[each.row] for each in changed],
                [each.num_prompt_tokens + each.sampling.min_tokens for each in changed],
                [min(each.sampling.num_logprobs or 0, self._vocab_size) for each in changed],
            ],
            torch.int64,
            self._device,
        )
        numbers = upload([_numbers(each.sampling) for each in changed], torch.float32, self._device)
        state = self.state
        state.flags[rows] = flags.int()
        state.restrained_until[rows] = restrained_until
        state.num_top[rows] = num_top.int()
        state.filters[rows], state.penalties[rows] = numbers[:, :3], numbers[:, 3:]
        for each in changed:
            self._write_lists(each)

    def serve(self, row: int) -> bool:
        """Whether the tables hold all that a row's sequence asks for."""
        return row not in self._unserved

    def set_masks(self, chunks: Sequence[Chunk]) -> None:
        """Write the masks of the chunks that have one."""
        masked = [chunk for chunk in chunks if chunk.mask is not None]
        if not masked:
            return
        joined = bytearray().join(chunk.mask for chunk in masked if chunk.mask is not None)
        bits = torch.frombuffer(joined, dtype=torch.int32).view(len(masked), -1)
        for index, chunk in enumerate(masked):
            if chunk.row in self._allowed:
                bits[index] &= self._allowed[chunk.row]
        rows = upload([chunk.row for chunk in masked], torch.int64, self._device)
        self.state.masks[rows] = to_device(bits, self._device)
        if not all(self._flags[chunk.row] & MASKED.value for chunk in masked):
            for chunk in masked:
                self._flags[chunk.row] |= MASKED.value
            flags = upload([self._flags[chunk.row] for chunk in masked], torch.int32, self._device)
            self.state.flags[rows] = flags

    def _write_lists(self, admission: Admission) -> None:
        """Write the tables of several entries a row."""
        row, sampling, state = admission.row, admission.sampling, self.state
        flags = self._flags[row]
        if flags & PENALISED.value:
            self._count(admission)
        if flags & MASKED.value:
            self._allowed[row] = _allowed_bits(sampling, self._vocab_size)
            state.masks[row] = to_device(self._allowed[row], self._device)
        if flags & EDITED.value:
            edits = _edits(sampling)
            tokens = [token for token, _ in edits] + [-1] * (MAX_EDITS - len(edits))
            values = [value for _, value in edits] + [0.0] * (MAX_EDITS - len(edits))
            state.edit_tokens[row] = upload(tokens, torch.int32, self._device)
            state.edit_values[row] = upload(values, torch.float32, self._device)
        if flags & REPORTED.value:
            listed = sampling.logprob_token_ids
            padded = [*listed, *[-1] * (MAX_LISTED - len(listed))]
            state.listed[row] = upload(padded, torch.int32, self._device)

    def _count(self, admission: Admission) -> None:
        """Count what was generated before a preemption, and mark the prompt's other tokens."""
        row, prompt_len = admission.row, admission.num_prompt_tokens
        counts = self.state.counts[row].zero_()
        counts[self.state.token_table[row, :prompt_len].long()] = -1
        generated = Counter(admission.token_ids[prompt_len:])
        if generated:
            tokens, numbers = upload([list(generated), list(generated.values())], torch.int64, self._device)
            counts[tokens] = numbers.to(counts.dtype)


def _fits(sampling: SamplingParams) -> bool:
    has_long_words = any(len(word) > 1 for word in sampling.bad_words)
    is_short = len(sampling.logprob_token_ids) <= MAX_LISTED and (sampling.num_logprobs or 0) <= MAX_TOP
    return not has_long_words and is_short and len(_edits(sampling)) <= MAX_EDITS


def _flags(sampling: SamplingParams) -> int:
    if not _fits(sampling):
        return 0
    flags = (
        (PENALISED, is_penalised(sampling)),
        (MASKED, bool(sampling.allowed_token_ids or sampling.bad_words)),
        (EDITED, bool(_edits(sampling))),
        (FILTERED, is_filtered(sampling)),
        (REPORTED, sampling.num_logprobs is not None),
    )
    return sum(flag.value for flag, is_set in flags if is_set)


def _numbers(sampling: SamplingParams) -> tuple[float, ...]:
    """Rows of `SamplingState.filters` and `SamplingState.penalties`."""
    return (
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )


def _edits(sampling: SamplingParams) -> list[tuple[int, float]]:
    """Logit biases, and the tokens that cannot be chosen at first."""
    held_back = (*sampling.eos_token_ids, *sampling.stop_token_ids) if sampling.min_tokens else ()
    return [*sampling.logit_bias.items(), *((token, -torch.inf) for token in held_back)]


def _allowed_bits(sampling: SamplingParams, vocab_size: int) -> Tensor:
    """A bit for each token that the lists of allowed tokens and of forbidden words let pass."""
    num_words = -(-vocab_size // 32)
    is_allowed = torch.full((num_words * 32,), not sampling.allowed_token_ids)
    is_allowed[list(sampling.allowed_token_ids)] = True
    is_allowed[[word[0] for word in sampling.bad_words]] = False
    bits = is_allowed.view(num_words, 32).long() << torch.arange(32)
    return bits.sum(1).int()

"""Chooses tokens where the sequences' state stays on the device, without waiting for it.

The kernels choose the tokens of all rows, in a decode step's graph or here. A sequence that asks for what
their tables do not hold, which is words of several tokens that must not appear, gets another token from
`sampler.py` afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.decode_steps import DecodeOutput
from engine.logprobs import PendingLogprobs
from engine.pending_step import Chosen
from engine.sampler import Sampler, sampling_row
from engine.sampling_rows import SamplingRows
from kernels.describe_tokens import Descriptions, describe_tokens
from kernels.sample import sample
from kernels.shaped_sample import shaped_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.batch import Batch
    from engine.step import Admission, Chunk
    from kernels.sampling_state import SamplingState


class DeviceSampler:
    """Samples from the tables of a batch."""

    def __init__(self, batch: Batch, vocab_size: int) -> None:
        self._batch = batch
        self._vocab_size = vocab_size
        self._rows = SamplingRows(batch, vocab_size)
        self._others = Sampler(batch.token_table)

    @property
    def state(self) -> SamplingState:
        """What the kernels read and write."""
        return self._rows.state

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Take in what new sequences ask for, once the batch has their tokens."""
        self._rows.admit(admissions)

    def prepare(self, chunks: Sequence[Chunk]) -> bool:
        """Take in the masks of what is to be sampled; whether a sequence asks for more than a temperature."""
        self._rows.set_masks(chunks)
        return not all(chunk.mask is None and self._batch.row(chunk.row).is_plain for chunk in chunks)

    def sample(self, chunks: Sequence[Chunk], rows: Tensor, ends: Tensor, logits: Tensor) -> Chosen:
        """Choose a token for each chunk, and append it to its row.

        Args:
            chunks: of the step, that sample.
            rows: [num_seqs] int64, theirs.
            ends: [num_seqs] integers: tokens of each row.
            logits: [num_seqs, vocab] of any float type.
        """
        state = self.state
        if not self.prepare(chunks):
            return Chosen(
                sample(logits, rows, state.temperatures, state.keys, state.num_tokens, state.token_table)
            )
        token_ids = shaped_sample(logits, rows, state)
        descriptions = Descriptions.allocate(len(chunks), logits.device)
        describe_tokens(logits, token_ids, rows, state, descriptions)
        return self.finish(chunks, DecodeOutput(rows, ends, token_ids, logits, descriptions))

    def finish(self, chunks: Sequence[Chunk], output: DecodeOutput) -> Chosen:
        """Describe the tokens, and replace those of the sequences that the kernels do not serve."""
        others = [place for place, chunk in enumerate(chunks) if not self._rows.serve(chunk.row)]
        sequences = [self._batch.row(chunk.row) for chunk in chunks]
        asked = {
            place: sequence.sampling
            for place, sequence in enumerate(sequences)
            if sequence.sampling.num_logprobs is not None and place not in others
        }
        described = PendingLogprobs(output.descriptions, asked, self._vocab_size) if asked else None
        if not others:
            return Chosen(output.token_ids, described=described)
        picked = self._batch.upload(others)
        token_ids, entries = self._others.sample(
            output.logits[picked].float(),
            [sampling_row(sequences[place], chunks[place]) for place in others],
        )
        self._batch.append(output.rows[picked], output.ends[picked].long(), token_ids)
        logprobs = dict(zip(others, entries, strict=True))
        return Chosen(
            output.token_ids.index_copy(0, picked, token_ids),
            [logprobs.get(place) for place in range(len(chunks))],
            described,
        )

"""Steps in which every sequence computes one token, from rows that stay on the device.

Such a step needs nothing from the host but which rows take part, and that only when it changes. So on a GPU
its whole work, from the inputs to the sampled tokens, is captured in a CUDA graph: one for each of a ladder
of batch sizes, a smaller batch being padded to the next size.

Batches in which a sequence asks for more than a temperature have graphs of their own. These end in the
kernels of `shaped_sample.py` and `describe_tokens.py`, which a row that asks for nothing leaves at once, but
which a batch of such rows need not launch at all.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.cuda_graphs import rounded_up
from engine.forward_inputs import ForwardInputs
from kernels.decode_inputs import DecodeInputs, decode_inputs
from kernels.describe_tokens import Descriptions, describe_tokens
from kernels.paged_attention import AttentionMetadata
from kernels.sample import sample
from kernels.shaped_sample import shaped_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.adapters import Adapters
    from engine.batch import Batch
    from engine.cuda_graphs import CapturedGraph, GraphCapturer
    from engine.kv_cache import LayerCache
    from engine.models.causal_lm import CausalLM
    from kernels.sampling_state import SamplingState

MAX_NUM_SEQS = 256
"""Larger batches keep the device busy without a graph."""
SIZES = (1, 2, 4, *range(8, 64, 8), *range(64, MAX_NUM_SEQS + 1, 16))
PADDING = -1


class DecodeOutput(NamedTuple):
    """What a step computed, on the device; the next one overwrites it."""

    rows: Tensor
    """[num_seqs] int64."""
    ends: Tensor
    """[num_seqs] int32: tokens of each row before the sampled one, which is that one's position."""
    token_ids: Tensor
    """[num_seqs] int64: sampled, and appended to the rows."""
    logits: Tensor
    """[num_seqs, vocab] in the model's type."""
    descriptions: Descriptions
    """Of the tokens, where the step was shaped."""


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Return the ladder of batch sizes, ascending, up to `max_num_seqs` or the largest."""
    largest = min(max_num_seqs, MAX_NUM_SEQS)
    return [size for size in SIZES if size < largest] + [largest]


class DecodeSteps:
    """Runs steps of one token for each row; on a GPU, by graphs that `capture` made."""

    def __init__(
        self,
        model: CausalLM,
        caches: Sequence[LayerCache],
        batch: Batch,
        sampling: SamplingState,
        max_num_seqs: int,
        adapters: Adapters,
    ) -> None:
        self._model = model
        self._caches = caches
        self._batch = batch
        self._sampling = sampling
        self._adapters = adapters
        self._sizes = graph_sizes(max_num_seqs)
        self._size_of = list(rounded_up(self._sizes))
        self.max_num_seqs = self._sizes[-1]
        device = batch.token_table.device
        self._rows = torch.full((self.max_num_seqs,), PADDING, dtype=torch.int64, device=device)
        self._current: list[int] = []  # what `_rows` holds
        self._inputs = DecodeInputs.allocate(self.max_num_seqs, batch.block_table.shape[1], device)
        self._query_start = torch.arange(self.max_num_seqs + 1, dtype=torch.int32, device=device)
        self._logits = model.empty_logits(self.max_num_seqs)
        self._descriptions = Descriptions.allocate(self.max_num_seqs, device)
        self._graphs: dict[tuple[int, bool, bool], CapturedGraph] = {}

    def capture(self, capturer: GraphCapturer) -> None:
        """Capture all graphs: shaped or not, without LoRA adapters and with them where there may be any."""
        adapters = (True, False) if self._adapters.num_slots else (False,)
        for size, use_adapters, is_shaped in product(reversed(self._sizes), adapters, (True, False)):
            compute = partial(self._compute, size, use_adapters, is_shaped)
            self._graphs[size, use_adapters, is_shaped] = capturer.capture(compute)

    def run(self, rows: list[int], *, use_adapters: bool = False, is_shaped: bool = False) -> DecodeOutput:
        """Compute the last known token of each row, and append the next to it.

        Args:
            rows: all different.
            use_adapters: whether one of them has a LoRA adapter.
            is_shaped: whether one of them asks for more than a temperature.
        """
        num_seqs = len(rows)
        if rows != self._current:
            padded = rows + [PADDING] * (self.max_num_seqs - num_seqs)
            self._rows.copy_(self._batch.upload(padded), non_blocking=True)
            self._current = rows
        if self._graphs:
            token_ids = self._graphs[self._size_of[num_seqs], use_adapters, is_shaped].replay()
        else:
            token_ids = self._compute(num_seqs, use_adapters, is_shaped)
        return DecodeOutput(
            self._rows[:num_seqs],
            self._inputs.context_lens[:num_seqs],
            token_ids[:num_seqs],
            self._logits[:num_seqs],
            self._descriptions.head(num_seqs),
        )

    def _compute(self, size: int, use_adapters: bool, is_shaped: bool) -> Tensor:
        rows, batch = self._rows[:size], self._batch
        inputs = self._inputs.head(size)
        decode_inputs(rows, batch.num_tokens, batch.token_table, batch.block_table, batch.block_size, inputs)
        forward = ForwardInputs(
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            slots=inputs.slots,
            attention=AttentionMetadata(
                query_start=self._query_start[: size + 1],
                context_lens=inputs.context_lens,
                block_tables=inputs.block_tables,
                query_lens=[1] * size,
                context_lens_list=self._context_lens(inputs),
                num_decodes=size,
            ),
        )
        slots = batch.adapter_slots[rows] if use_adapters else None
        with self._adapters.applied(slots):
            hidden = self._model(forward, self._caches)
        logits = self._model.write_logits(hidden, self._logits[:size])
        if is_shaped:
            token_ids = shaped_sample(logits, rows, self._sampling)
            describe_tokens(logits, token_ids, rows, self._sampling, self._descriptions.head(size))
            return token_ids
        return sample(logits, rows, batch.temperatures, batch.keys, batch.num_tokens, batch.token_table)

    def _context_lens(self, inputs: DecodeInputs) -> list[int]:
        """The contexts' lengths; on a GPU, where a graph must serve any, the longest there can be."""
        if inputs.context_lens.is_cuda:
            return [self._batch.max_model_len] * len(inputs.context_lens)
        lens: list[int] = inputs.context_lens.tolist()
        return lens

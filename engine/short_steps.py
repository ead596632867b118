"""Forward passes over few prompt tokens, alone or beside decodes, as CUDA graphs.

The device takes less time for such a pass than the host takes to launch its kernels one by one. There is a
graph for each shape of two ladders: slots for decodes, and prompt tokens. A pass is padded to the next shape:
with decodes that have no context, with tokens that have no slot in the cache and belong to no sequence, and
with prompts that have no query. Where there are few sequences, all go to the prefill kernel.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.cuda_graphs import rounded_up
from engine.forward_inputs import ForwardInputs
from kernels.paged_attention import AttentionMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.cuda_graphs import CapturedGraph, GraphCapturer
    from engine.kv_cache import LayerCache
    from engine.limits import Limits
    from engine.models.causal_lm import CausalLM

FEW_SEQS = 8
"""Sequences that go to the prefill kernel together, decodes too."""
MAX_NUM_PROMPTS = 32
"""Sequences that go to it beside decodes."""
SIZES = (64, 128, 192, 256, 384, 512, 640, 768, 1024)
"""Numbers of tokens where all go to the prefill kernel."""
SIZES_BESIDE_DECODES = (64, 128, 256, 512, 1024)
"""Numbers of prompt tokens beside decodes."""
DECODE_SLOTS = (32, 64, 128, 256)


class Shape(NamedTuple):
    """What a graph has room for."""

    num_decodes: int
    """The first tokens: each is a sequence's only one, and goes to the decode kernel."""
    num_tokens: int
    """The others."""

    @property
    def num_prompts(self) -> int:
        """Sequences of the others."""
        return MAX_NUM_PROMPTS if self.num_decodes else FEW_SEQS


def decode_slots(max_num_seqs: int) -> list[int]:
    """Return the ladder of slots for decodes, ascending; none for few sequences."""
    if max_num_seqs <= FEW_SEQS:
        return []
    largest = min(max_num_seqs, DECODE_SLOTS[-1])
    return [slots for slots in DECODE_SLOTS if slots < largest] + [largest]


class ShortSteps:
    """Static inputs of short passes, and the graphs that read them.

    Args:
        limits: of batches and sequences.
        max_blocks: of a sequence.
    """

    def __init__(
        self,
        model: CausalLM,
        caches: Sequence[LayerCache],
        limits: Limits,
        max_blocks: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._caches = caches
        self._max_model_len = limits.max_model_len
        most = limits.max_num_batched_tokens
        self._sizes = [size for size in SIZES if size <= most]
        self._sizes_beside = [size for size in SIZES_BESIDE_DECODES if size <= most]
        self._slots_of_decodes = decode_slots(limits.max_num_seqs)
        self._size_of = list(rounded_up(self._sizes))
        self._size_beside_of = list(rounded_up(self._sizes_beside))
        self._slots_of = list(rounded_up(self._slots_of_decodes))
        num_decodes = max(self._slots_of_decodes, default=0)
        num_tokens = num_decodes + max(self._sizes, default=0)
        num_seqs = num_decodes + MAX_NUM_PROMPTS
        self._token_ids = torch.zeros(num_tokens, dtype=torch.int32, device=device)
        self._positions = torch.zeros(num_tokens, dtype=torch.int64, device=device)
        self._slots = torch.full((num_tokens,), -1, dtype=torch.int64, device=device)
        self._query_start = torch.zeros(num_seqs + 1, dtype=torch.int32, device=device)
        self._context_lens = torch.zeros(num_seqs, dtype=torch.int32, device=device)
        self._block_tables = torch.zeros(num_seqs, max_blocks, dtype=torch.int32, device=device)
        self._graphs: dict[Shape, CapturedGraph] = {}

    def shapes(self) -> list[Shape]:
        """Return all shapes, the largest first."""
        beside = [Shape(slots, size) for slots in self._slots_of_decodes for size in self._sizes_beside]
        return sorted([Shape(0, size) for size in self._sizes] + beside, key=sum, reverse=True)

    def capture(self, capturer: GraphCapturer) -> None:
        """Capture all graphs."""
        for shape in self.shapes():
            self._graphs[shape] = capturer.capture(partial(self._compute, shape))

    def suit(self, inputs: ForwardInputs) -> bool:
        """Whether there is a graph for a pass."""
        return self.shape_of(inputs) in self._graphs

    def shape_of(self, inputs: ForwardInputs) -> Shape | None:
        """Return the least shape that a pass fits into."""
        num_tokens, num_seqs = len(inputs.token_ids), len(inputs.attention.query_lens)
        if num_seqs <= FEW_SEQS:
            return Shape(0, self._size_of[num_tokens]) if num_tokens < len(self._size_of) else None
        num_decodes = inputs.attention.num_decodes
        num_tokens -= num_decodes
        if num_seqs - num_decodes > MAX_NUM_PROMPTS or num_decodes >= len(self._slots_of):
            return None
        if num_tokens >= len(self._size_beside_of):
            return None
        return Shape(self._slots_of[num_decodes], self._size_beside_of[num_tokens])

    def run(self, inputs: ForwardInputs) -> Tensor:
        """Run a pass; returns hidden states [num_tokens, hidden_size], which the next one overwrites."""
        shape = self.shape_of(inputs)
        assert shape is not None
        num_tokens, attention = len(inputs.token_ids), inputs.attention
        num_decodes = attention.num_decodes if shape.num_decodes else 0
        padding = shape.num_decodes - num_decodes
        num_blocks = attention.block_tables.shape[1]

        def place(static: Tensor, values: Tensor) -> None:
            if not padding:
                static[: len(values)] = values
                return
            static[:num_decodes] = values[:num_decodes]
            static[shape.num_decodes : len(values) + padding] = values[num_decodes:]

        self._slots.fill_(-1)
        self._context_lens.zero_()
        self._query_start.fill_(num_tokens + padding)
        place(self._token_ids, inputs.token_ids)
        place(self._positions, inputs.positions)
        place(self._slots, inputs.slots)
        place(self._context_lens, attention.context_lens)
        place(self._block_tables[:, :num_blocks], attention.block_tables)
        place(self._query_start, attention.query_start + padding if padding else attention.query_start)
        hidden = self._graphs[shape].replay()
        if padding == 0:
            return hidden[:num_tokens]
        return torch.cat((hidden[:num_decodes], hidden[shape.num_decodes : num_tokens + padding]))

    def _compute(self, shape: Shape) -> Tensor:
        num_tokens, num_seqs = sum(shape), shape.num_decodes + shape.num_prompts
        inputs = ForwardInputs(
            token_ids=self._token_ids[:num_tokens],
            positions=self._positions[:num_tokens],
            slots=self._slots[:num_tokens],
            attention=AttentionMetadata(
                query_start=self._query_start[: num_seqs + 1],
                context_lens=self._context_lens[:num_seqs],
                block_tables=self._block_tables[:num_seqs],
                query_lens=[1] * shape.num_decodes + [shape.num_tokens] * shape.num_prompts,
                context_lens_list=[self._max_model_len] * num_seqs,
                num_decodes=shape.num_decodes,
            ),
        )
        hidden: Tensor = self._model(inputs, self._caches)
        return hidden

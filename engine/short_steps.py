"""Forward passes over few tokens of few sequences, as CUDA graphs: a short prompt, and a few decodes.

The device takes less time for such a pass than the host takes to launch its kernels one by one. There is a
graph for each of a ladder of token counts. A pass is padded to the next: with tokens that have no slot in the
cache and belong to no sequence, and with sequences that have no query. All queries go to the prefill kernel.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from engine.cuda_graphs import rounded_up
from engine.forward_inputs import ForwardInputs
from kernels.paged_attention import AttentionMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.cuda_graphs import CapturedGraph, GraphCapturer
    from engine.kv_cache import LayerCache
    from engine.models.causal_lm import CausalLM

MAX_NUM_SEQS = 8
SIZES = (64, 128, 192, 256, 384, 512, 640, 768, 1024)
"""Numbers of tokens."""


class ShortSteps:
    """Static inputs of short passes, and the graphs that read them.

    Args:
        max_num_batched_tokens: no pass has more tokens.
        max_blocks: of a sequence.
    """

    def __init__(
        self,
        model: CausalLM,
        caches: Sequence[LayerCache],
        max_num_batched_tokens: int,
        max_blocks: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._caches = caches
        self._sizes = [size for size in SIZES if size <= max_num_batched_tokens]
        self._size_of = list(rounded_up(self._sizes))
        largest = self._sizes[-1] if self._sizes else 0
        self._token_ids = torch.zeros(largest, dtype=torch.int32, device=device)
        self._positions = torch.zeros(largest, dtype=torch.int64, device=device)
        self._slots = torch.full((largest,), -1, dtype=torch.int64, device=device)
        self._query_start = torch.zeros(MAX_NUM_SEQS + 1, dtype=torch.int32, device=device)
        self._context_lens = torch.zeros(MAX_NUM_SEQS, dtype=torch.int32, device=device)
        self._block_tables = torch.zeros(MAX_NUM_SEQS, max_blocks, dtype=torch.int32, device=device)
        self._graphs: dict[int, CapturedGraph] = {}

    def capture(self, capturer: GraphCapturer) -> None:
        """Capture all graphs."""
        for size in reversed(self._sizes):
            self._graphs[size] = capturer.capture(partial(self._compute, size))

    def suit(self, num_tokens: int, num_seqs: int) -> bool:
        """Whether there is a graph for a pass of this size."""
        return bool(self._graphs) and num_tokens < len(self._size_of) and num_seqs <= MAX_NUM_SEQS

    def run(self, inputs: ForwardInputs) -> Tensor:
        """Run a pass; returns hidden states [num_tokens, hidden_size], which the next one overwrites."""
        num_tokens, attention = len(inputs.token_ids), inputs.attention
        num_seqs, num_blocks = attention.block_tables.shape
        self._token_ids[:num_tokens] = inputs.token_ids
        self._positions[:num_tokens] = inputs.positions
        self._slots.fill_(-1)
        self._slots[:num_tokens] = inputs.slots
        self._query_start.fill_(num_tokens)
        self._query_start[: num_seqs + 1] = attention.query_start
        self._context_lens[:num_seqs] = attention.context_lens
        self._block_tables[:num_seqs, :num_blocks] = attention.block_tables
        return self._graphs[self._size_of[num_tokens]].replay()[:num_tokens]

    def _compute(self, size: int) -> Tensor:
        inputs = ForwardInputs(
            token_ids=self._token_ids[:size],
            positions=self._positions[:size],
            slots=self._slots[:size],
            attention=AttentionMetadata(
                query_start=self._query_start,
                context_lens=self._context_lens,
                block_tables=self._block_tables,
                query_lens=[size] * MAX_NUM_SEQS,
                context_lens_list=[size] * MAX_NUM_SEQS,
                num_decodes=0,
            ),
        )
        hidden: Tensor = self._model(inputs, self._caches)
        return hidden

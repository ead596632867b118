"""Computes one step: a forward pass over the plan's chunks, then one token for each that samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.batch import Batch
from engine.logprobs import token_logprobs
from engine.sampler import Sampler, SamplingRow
from engine.step import SampledToken, StepResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.batch import StepInputs
    from engine.kv_cache import LayerCache
    from engine.limits import Limits
    from engine.messages import TokenLogprobs
    from engine.models.decoder import CausalLM
    from engine.step import Chunk, StepPlan

PROMPT_LOGPROBS_ROWS = 256
"""Rows of logits that exist at once for prompt log probabilities; one row is a vocabulary of float32."""


class StepRunner:
    """A model with its cache and its rows. It computes and never decides."""

    def __init__(
        self, model: CausalLM, caches: Sequence[LayerCache], limits: Limits, device: torch.device
    ) -> None:
        self._model = model
        self._caches = caches
        self._batch = Batch(limits.max_num_seqs, limits.max_model_len, limits.block_size, device)
        self._sampler = Sampler(self._batch.token_table)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step. A plan without chunks only changes the rows."""
        self._batch.apply(plan)
        if not plan.chunks:
            return StepResult(sampled=(), prompt_logprobs={})
        inputs = self._batch.inputs(plan.chunks)
        hidden = self._model(inputs.forward, self._caches)
        return StepResult(
            sampled=self._sample(plan.chunks, inputs, hidden),
            prompt_logprobs=self._prompt_logprobs(plan.chunks, hidden),
        )

    def _sample(
        self, chunks: Sequence[Chunk], inputs: StepInputs, hidden: Tensor
    ) -> tuple[SampledToken, ...]:
        """Sample the chunks that ask for it, and write the tokens into their rows."""
        sampling = [index for index, chunk in enumerate(chunks) if chunk.samples]
        if not sampling:
            return ()
        rows, ends, last_tokens = inputs.rows, inputs.ends, inputs.last_tokens
        if len(sampling) < len(chunks):
            picked = self._batch.upload([sampling])[0]
            rows, ends, last_tokens = rows[picked], ends[picked], last_tokens[picked]
        if len(last_tokens) < len(hidden):
            hidden = hidden[last_tokens]
        sampling_rows = [self._sampling_row(chunks[index]) for index in sampling]
        token_ids, logprobs = self._sampler.sample(self._model.logits(hidden), sampling_rows)
        self._batch.append(rows, ends, token_ids)
        return tuple(
            SampledToken(row.row, token_id, entry)
            for row, token_id, entry in zip(sampling_rows, token_ids.tolist(), logprobs, strict=True)
        )

    def _sampling_row(self, chunk: Chunk) -> SamplingRow:
        sequence = self._batch.row(chunk.row)
        return SamplingRow(
            params=sequence.sampling,
            row=chunk.row,
            num_tokens=chunk.start + chunk.num_tokens,
            num_prompt_tokens=sequence.num_prompt_tokens,
        )

    def _prompt_logprobs(self, chunks: Sequence[Chunk], hidden: Tensor) -> dict[int, list[TokenLogprobs]]:
        """Describe the prompt tokens that follow the chunks' tokens, for the rows that ask for it."""
        described: dict[int, list[TokenLogprobs]] = {}
        first = 0
        for chunk in chunks:
            sequence = self._batch.row(chunk.row)
            num_top = sequence.sampling.num_prompt_logprobs
            num_targets = min(chunk.num_tokens, sequence.num_prompt_tokens - 1 - chunk.start)
            if num_top is not None and num_targets > 0:
                targets = self._batch.token_table[chunk.row, chunk.start + 1 :][:num_targets]
                described[chunk.row] = self._describe(hidden[first : first + num_targets], targets, num_top)
            first += chunk.num_tokens
        return described

    def _describe(self, hidden: Tensor, token_ids: Tensor, num_top: int) -> list[TokenLogprobs]:
        described: list[TokenLogprobs] = []
        for rows, targets in zip(
            torch.split(hidden, PROMPT_LOGPROBS_ROWS),
            torch.split(token_ids.long(), PROMPT_LOGPROBS_ROWS),
            strict=True,
        ):
            described += token_logprobs(self._model.logits(rows), targets, [num_top] * len(targets))
        return described

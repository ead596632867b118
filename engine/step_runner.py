"""Computes steps: a forward pass over the plan's chunks, then one token for each that samples.

On a GPU, steps of single tokens alone go to `decode_steps.py`, and short ones to `short_steps.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.batch import Batch
from engine.cuda_graphs import GraphCapturer
from engine.decode_steps import DecodeSteps
from engine.device_sampler import DeviceSampler
from engine.device_span import DeviceSpan
from engine.logprobs import token_logprobs
from engine.pending_step import Chosen, PendingStep
from engine.pooler import pool
from engine.sampler import Sampler, sampling_row
from engine.short_steps import ShortSteps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.adapters import Adapters
    from engine.batch import StepInputs
    from engine.kv_cache import LayerCache
    from engine.limits import Limits
    from engine.messages import TokenLogprobs
    from engine.models.causal_lm import CausalLM
    from engine.step import Chunk, StepPlan

PROMPT_LOGPROBS_ROWS = 256
"""Rows of logits that exist at once for prompt log probabilities; one row is a vocabulary of float32."""


class StepRunner:
    """A model with its cache and its rows. It computes and never decides.

    Args:
        model: prepared to run.
        caches: of each layer.
        limits: of batches and sequences.
        device: of all of these.
        adapters: of the model.
        is_device_resident: whether steps run without the host as far as they can, as suits a GPU.
    """

    def __init__(
        self,
        model: CausalLM,
        caches: Sequence[LayerCache],
        limits: Limits,
        device: torch.device,
        adapters: Adapters,
        *,
        is_device_resident: bool,
    ) -> None:
        self._model = model
        self._caches = caches
        self._adapters = adapters
        self._device = device
        self._batch = Batch(limits.max_num_seqs, limits.max_model_len, limits.block_size, device)
        self._sampler = Sampler(self._batch.token_table)
        self._device_sampler: DeviceSampler | None = None
        self._decodes: DecodeSteps | None = None
        self._short_steps: ShortSteps | None = None
        if is_device_resident:
            max_blocks = self._batch.block_table.shape[1]
            self._device_sampler = DeviceSampler(self._batch, self.vocab_size)
            state = self._device_sampler.state
            self._decodes = DecodeSteps(model, caches, self._batch, state, limits.max_num_seqs, adapters)
            self._short_steps = ShortSteps(model, caches, limits, max_blocks, device)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the model knows."""
        return self._model.config.vocab_size

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture graphs of what the host would launch too slowly. The rows must be free."""
        assert self._decodes is not None
        assert self._short_steps is not None
        capturer = GraphCapturer()
        self._short_steps.capture(capturer)
        self._decodes.capture(capturer)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> PendingStep:
        """Begin a step. A plan without chunks only changes the rows."""
        self._batch.apply(plan)
        self._adapters.place(plan.admissions)
        if self._device_sampler is not None:
            self._device_sampler.admit(plan.admissions)
        chunks = plan.chunks
        if not chunks:
            return PendingStep((), Chosen(torch.empty(0, dtype=torch.int64)), {})
        span = DeviceSpan.begin(self._device)
        if self._decodes is not None and self._is_decode(chunks, self._decodes.max_num_seqs):
            return self._launch_decodes(chunks, self._decodes, span)
        inputs = self._batch.inputs(chunks)
        with self._adapters.applied(inputs.adapter_slots):
            hidden = self._forward(inputs)
        sampling = [index for index, chunk in enumerate(chunks) if chunk.samples]
        rows = [chunks[index].row for index in sampling]
        chosen = self._sample(chunks, sampling, inputs, hidden)
        pooled = pool(self._batch, chunks, hidden)
        return PendingStep(rows, chosen, self._prompt_logprobs(chunks, hidden), pooled, span)

    def _forward(self, inputs: StepInputs) -> Tensor:
        forward, is_base = inputs.forward, inputs.adapter_slots is None
        if self._short_steps is not None and is_base and self._short_steps.suit(forward):
            return self._short_steps.run(forward)
        hidden: Tensor = self._model(forward, self._caches)
        return hidden

    @staticmethod
    def _is_decode(chunks: Sequence[Chunk], max_num_seqs: int) -> bool:
        is_single = chunks[-1].num_tokens == 1  # these come first
        return is_single and len(chunks) <= max_num_seqs and all(chunk.samples for chunk in chunks)

    def _launch_decodes(
        self, chunks: Sequence[Chunk], decodes: DecodeSteps, span: DeviceSpan | None
    ) -> PendingStep:
        assert self._device_sampler is not None
        rows = [chunk.row for chunk in chunks]
        is_shaped = self._device_sampler.prepare(chunks)
        output = decodes.run(rows, use_adapters=self._batch.use_adapters(chunks), is_shaped=is_shaped)
        chosen = self._device_sampler.finish(chunks, output) if is_shaped else Chosen(output.token_ids)
        return PendingStep(rows, chosen, {}, span=span)

    def _sample(
        self, chunks: Sequence[Chunk], sampling: list[int], inputs: StepInputs, hidden: Tensor
    ) -> Chosen:
        """Sample the chunks of these indices, and write the tokens into their rows."""
        rows, ends, last_tokens = inputs.rows, inputs.ends, inputs.last_tokens
        if sampling == list(range(len(sampling))):
            num_sampling = len(sampling)
            rows, ends, last_tokens = rows[:num_sampling], ends[:num_sampling], last_tokens[:num_sampling]
            chunks = chunks[:num_sampling]
            if chunks and chunks[-1].num_tokens == 1:  # as all before it have
                hidden = hidden[:num_sampling]
        else:
            picked = self._batch.upload(sampling)
            rows, ends, last_tokens = rows[picked], ends[picked], last_tokens[picked]
            chunks = [chunks[index] for index in sampling]
        if not chunks:
            return Chosen(rows)
        if len(last_tokens) < len(hidden):
            hidden = hidden[last_tokens]
        if self._device_sampler is not None:
            return self._device_sampler.sample(chunks, rows, ends, self._model.project(hidden))
        sampling_rows = [sampling_row(self._batch.row(chunk.row), chunk) for chunk in chunks]
        token_ids, logprobs = self._sampler.sample(self._model.logits(hidden), sampling_rows)
        self._batch.append(rows, ends, token_ids)
        return Chosen(token_ids, logprobs)

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

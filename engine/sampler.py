"""Chooses the next token of each row of a batch.

A row's choice depends on its logits, parameters, history, and on (seed, position): never on the rows
beside it. Each step draws one uniform number per row from a hash of seed and position, and inverts the
cumulative distribution in the vocabulary's order, after the filters.

The order is: penalties, logit bias, forbidden tokens, temperature, min_p, top_k, top_p. Filters are
thresholds on a probability, so tokens that tie at the edge stay together.

Work is done for the rows that ask for it: a greedy row without options costs its argmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.forbidden_tokens import BadWords, apply_masks
from engine.logprobs import token_logprobs
from engine.upload import to_device, upload
from kernels.token_filters import draw_reference
from kernels.uniform import seed_keys, uniform_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.batch import Row
    from engine.messages import SamplingParams, TokenLogprobs
    from engine.step import Chunk


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row of logits and what it belongs to."""

    params: SamplingParams
    row: int
    """Row of the token table that holds the sequence's tokens."""
    num_tokens: int
    """Known tokens, which is also the position of the token to be chosen."""
    num_prompt_tokens: int
    mask: bytes | None = None
    """A bit for each token that its grammar allows."""


class Sampler:
    """Samples batches of sequences whose tokens stand in one table.

    Args:
        token_table: [max_num_seqs, max_model_len] integers, on the device of the logits. The sampler
            reads it for penalties only; its owner writes it.
    """

    def __init__(self, token_table: Tensor) -> None:
        self._token_table = token_table
        self._plan = _Plan((), token_table.device)

    def sample(
        self, logits: Tensor, rows: Sequence[SamplingRow]
    ) -> tuple[Tensor, list[TokenLogprobs | None]]:
        """Choose one token for each row.

        Args:
            logits: [num_rows, vocab] float32; may be overwritten.
            rows: one for each row of logits.

        Returns:
            Token ids [num_rows] int64 on the logits' device, -1 where a row holds NaN, +inf or nothing
            finite, -2 where all tokens are forbidden; and the log probabilities of the rows that ask for
            them.
        """
        assert logits.dtype == torch.float32, logits.dtype
        assert len(rows) == logits.shape[0], (len(rows), logits.shape)
        plan = self._plan_for(rows)
        raw = logits
        healthy = None
        if plan.adjusted or any(row.mask is not None for row in rows):
            healthy = logits.amax(-1).isfinite()
            logits = logits.clone() if plan.reported else logits
            self._adjust(logits, rows, plan)
        token_ids = logits.argmax(-1)
        possible = logits.gather(1, token_ids[:, None])[:, 0].isfinite()
        healthy = possible if healthy is None else healthy
        if plan.drawing:
            drawn = logits if len(plan.drawing) == len(rows) else logits[plan.drawing_index]
            uniform = uniform_reference(plan.keys, _positions(rows, plan))
            token_ids[plan.drawing_index] = draw_reference(drawn, plan.temperature, plan.filters, uniform)
        token_ids = torch.where(possible, token_ids, -2)
        token_ids = torch.where(healthy, token_ids, -1)
        return token_ids, _report(raw, token_ids, plan)

    def _plan_for(self, rows: Sequence[SamplingRow]) -> _Plan:
        """Return the batch's plan: the last one, while the batch keeps its rows."""
        params = tuple(row.params for row in rows)
        if params != self._plan.params:
            self._plan = _Plan(params, self._token_table.device)
        return self._plan

    def _adjust(self, logits: Tensor, rows: Sequence[SamplingRow], plan: _Plan) -> None:
        """Apply penalties and bias to `logits`, and forbid tokens, in place."""
        if plan.penalised:
            logits[plan.penalised] = _penalise(
                logits[plan.penalised], self._token_table, [rows[index] for index in plan.penalised]
            )
        if plan.bias is not None:
            indices, token_ids, biases = plan.bias
            logits[indices, token_ids] += biases
        for index in plan.restrained:
            row = rows[index]
            if row.num_tokens - row.num_prompt_tokens < row.params.min_tokens:
                logits[index, [*row.params.eos_token_ids, *row.params.stop_token_ids]] = -torch.inf
        for index, token_ids in plan.allowed:
            kept = logits[index, token_ids]
            logits[index] = -torch.inf
            logits[index, token_ids] = kept
        for index, words in plan.bad_words:
            words.forbid(logits[index], self._generated(rows[index], words.num_tokens))
        apply_masks(logits, [row.mask for row in rows])

    def _generated(self, row: SamplingRow, limit: int) -> Tensor:
        """The newest tokens that a sequence has generated, at most `limit`."""
        first = max(row.num_prompt_tokens, row.num_tokens - limit)
        return self._token_table[row.row, first : row.num_tokens]


def sampling_row(sequence: Row, chunk: Chunk) -> SamplingRow:
    """Return what the sampler must know of a chunk that samples."""
    return SamplingRow(
        params=sequence.sampling,
        row=chunk.row,
        num_tokens=chunk.start + chunk.num_tokens,
        num_prompt_tokens=sequence.num_prompt_tokens,
        mask=chunk.mask,
    )


def is_filtered(params: SamplingParams) -> bool:
    """Whether only some of the tokens may be drawn, by their probabilities."""
    return params.temperature > 0 and bool(params.top_k or params.top_p < 1 or params.min_p > 0)


def is_plain(params: SamplingParams) -> bool:
    """Whether a row needs no more than its temperature, and reports no more than its token."""
    is_restrained = params.min_tokens and (params.eos_token_ids or params.stop_token_ids)
    is_limited = params.allowed_token_ids or params.bad_words
    is_adjusted = params.logit_bias or is_restrained or is_limited or is_penalised(params)
    return not (is_filtered(params) or is_adjusted or params.num_logprobs is not None)


class _Plan:
    """Which rows of a batch need what; a function of their sampling parameters alone."""

    def __init__(self, params: tuple[SamplingParams, ...], device: torch.device) -> None:
        def where(wants: Callable[[SamplingParams], object]) -> list[int]:
            return [index for index, each in enumerate(params) if wants(each)]

        self.params = params
        self.penalised = where(is_penalised)
        self.restrained = where(lambda each: each.min_tokens and (each.eos_token_ids or each.stop_token_ids))
        self.bias = _bias_of(params, device)
        self.allowed = [
            (index, upload(params[index].allowed_token_ids, torch.int64, device))
            for index in where(lambda each: each.allowed_token_ids)
        ]
        self.bad_words = [
            (index, BadWords(params[index].bad_words, device)) for index in where(lambda each: each.bad_words)
        ]
        self.adjusted = bool(self.penalised or self.restrained or self.bias or self.allowed or self.bad_words)
        self.reported = where(lambda each: each.num_logprobs is not None)
        self.num_logprobs = [params[index].num_logprobs or 0 for index in self.reported]
        self.logprob_token_ids = [params[index].logprob_token_ids for index in self.reported]

        self.drawing = where(lambda each: each.temperature > 0)
        self.drawing_index = upload(self.drawing, torch.int64, device)
        drawing = [params[index] for index in self.drawing]
        self.temperature = _column([each.temperature for each in drawing], torch.float32, device)
        self.filters = _filters_of(drawing, device)
        self.keys = to_device(seed_keys([each.seed for each in drawing], torch.device("cpu")), device)


def _column(values: list[float] | list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return upload(values, dtype, device)[:, None]


def _filters_of(
    drawing: Sequence[SamplingParams], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return top_k, top_p and min_p, each [num_rows, 1]; None where no row filters."""
    if not any(map(is_filtered, drawing)):
        return None
    return (
        _column([each.top_k for each in drawing], torch.int64, device),
        _column([each.top_p for each in drawing], torch.float32, device),
        _column([each.min_p for each in drawing], torch.float32, device),
    )


def is_penalised(params: SamplingParams) -> bool:
    """Whether the known tokens change a row's logits."""
    return (
        params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    )


def _bias_of(
    params: tuple[SamplingParams, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Flatten all logit biases into (row index, token id, bias)."""
    entries = [(index, *item) for index, each in enumerate(params) for item in each.logit_bias.items()]
    if not entries:
        return None
    indices, token_ids, biases = zip(*entries, strict=True)
    return (
        upload(indices, torch.int64, device),
        upload(token_ids, torch.int64, device),
        upload(biases, torch.float32, device),
    )


def _penalise(logits: Tensor, token_table: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Apply the three penalties to rows of logits [num_rows, vocab], out of place."""

    device = logits.device
    num_rows, vocab_size = logits.shape
    table_rows = upload([row.row for row in rows], torch.int64, device)
    tokens = token_table[table_rows, : max(row.num_tokens for row in rows)].long()
    position = torch.arange(tokens.shape[1], device=device)
    known = position < _column([row.num_tokens for row in rows], torch.int64, device)
    generated = known & (position >= _column([row.num_prompt_tokens for row in rows], torch.int64, device))

    # Positions that do not count are gathered in a column beyond the vocabulary, which is cut off.
    seen = torch.zeros(num_rows, vocab_size + 1, dtype=torch.bool, device=device)
    seen.scatter_(1, torch.where(known, tokens, vocab_size), value=True)
    counts = torch.zeros(num_rows, vocab_size + 1, device=device)
    counts.scatter_add_(1, torch.where(generated, tokens, vocab_size), known.to(counts.dtype))
    seen, counts = seen[:, :-1], counts[:, :-1]

    repetition = _column([row.params.repetition_penalty for row in rows], torch.float32, device)
    frequency = _column([row.params.frequency_penalty for row in rows], torch.float32, device)
    presence = _column([row.params.presence_penalty for row in rows], torch.float32, device)
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    return torch.where(seen, repeated, logits) - frequency * counts - presence * (counts > 0)


def _report(logits: Tensor, token_ids: Tensor, plan: _Plan) -> list[TokenLogprobs | None]:
    """Return the log probabilities of each row that asks for them, from the raw logits."""
    report: list[TokenLogprobs | None] = [None] * len(token_ids)
    if plan.reported:
        chosen = token_ids[plan.reported].clamp(min=0)
        entries = token_logprobs(logits[plan.reported], chosen, plan.num_logprobs, plan.logprob_token_ids)
        for index, entry in zip(plan.reported, entries, strict=True):
            report[index] = entry
    return report


def _positions(rows: Sequence[SamplingRow], plan: _Plan) -> Tensor:
    return upload([rows[index].num_tokens for index in plan.drawing], torch.int64, plan.keys.device)

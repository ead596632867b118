"""A step while the scheduler plans it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.step import Chunk, StepPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.request import Request
    from engine.step import Admission


class StepDraft:
    """Tokens handed out within a budget, to sequences that hold a row."""

    def __init__(self, budget: int, max_chunk_tokens: int) -> None:
        self.budget = budget
        """Tokens left."""
        self._max_chunk_tokens = max_chunk_tokens
        self.admissions: list[Admission] = []
        self.single_chunks: list[Chunk] = []
        self.long_chunks: list[Chunk] = []
        self.frontier: set[bytes] = set()
        """Keys of the blocks that running sequences fill next with tokens that they know already."""

    def give(self, request: Request, limit: int) -> None:
        """Let a running sequence compute its next tokens, at most `limit` and no more than a chunk has."""
        assert request.row is not None
        num_tokens = min(request.num_unplanned_tokens, limit, self._max_chunk_tokens)
        start = request.num_planned_tokens
        new_block_ids, samples = request.take_blocks(), request.plan(num_tokens)
        mask = request.matcher.mask if samples and request.matcher is not None else None
        chunk = Chunk(request.row, start, num_tokens, new_block_ids, samples, mask)
        (self.single_chunks if num_tokens == 1 else self.long_chunks).append(chunk)
        self.budget -= num_tokens

    def finish(self, released_rows: Iterable[int]) -> StepPlan | None:
        """Return the plan; None where there is nothing to compute."""
        chunks = (*self.single_chunks, *self.long_chunks)
        return StepPlan(tuple(released_rows), tuple(self.admissions), chunks) if chunks else None

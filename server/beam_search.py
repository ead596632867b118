"""Beam search: the most likely continuations of a prompt, found over the engine's own sequences.

Each step asks the engine for one token of every beam, with the most likely candidates beside it; the prefix
cache holds what the beams have in common. Beams that an ending token closes compete with the open ones by
their score: the sum of their log probabilities over their length to the power of the length penalty.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.messages import FinishReason, RequestOutput, SamplingParams, TokenLogprobs
from server.mailbox import merge, outputs_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence

    from engine.messages import EngineRequest
    from server.engine import Engine


LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, so that scores stay numbers."""

TOKENS_PER_OUTPUT = 256
"""Of a found beam. With their log probabilities they become messages in a few milliseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """One continuation: a token after another beam, so that beams share what they have in common."""

    last: tuple[Beam, TokenLogprobs] | None = field(default=None, repr=False)
    """What it continues, and by which token; None where the prompt ends."""
    length: int = 0
    """In tokens."""
    logprob: float = 0.0
    """Of all its tokens together."""
    ended_by: int | None = None
    """The token that ended it; None while it is open."""

    def score(self, length_penalty: float) -> float:
        """What beams are ranked by. An ending token counts in the probability and not in the length."""
        length = self.length - (self.ended_by is not None)
        return self.logprob / math.pow(max(length, 1), length_penalty)

    @property
    def tokens(self) -> list[TokenLogprobs]:
        """The generated tokens."""
        found = []
        last = self.last
        while last is not None:
            beam, token = last
            found.append(token)
            last = beam.last
        return found[::-1]


class BeamSearch:
    """Searches for the `width` most likely continuations."""

    def __init__(
        self, engine: Engine, request: EngineRequest, width: int, length_penalty: float, vocab_size: int
    ) -> None:
        """Prepare a search.

        Args:
            engine: runs the steps.
            request: the prompt, and when beams end. Its sampling values are those of one beam.
            width: number of beams that are followed, and of continuations that are found.
            length_penalty: exponent of the length in a score.
            vocab_size: of the model.
        """
        self._engine = engine
        self._request = request
        self._sampling = request.sampling
        self._width = width
        self._length_penalty = length_penalty
        self._ending = frozenset((*request.sampling.eos_token_ids, *request.sampling.stop_token_ids))
        # Enough that `width` candidates stay open whatever may end a beam.
        self._num_candidates = min(width + max(width, len(self._ending)), vocab_size)

    async def outputs(self) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        """Yield outputs by the index of their choice: the prompt's for choice 0, then each found beam's.

        A sequence that fails ends the search; its output is the last one.

        Raises:
            EngineUnavailableError: the engine was lost.
        """
        beams = [Beam()]
        texts = {beams[0]: array("I", self._request.prompt_token_ids)}
        closed: list[Beam] = []
        for _ in range(self._sampling.max_tokens):
            outputs = await self._step(texts)
            failed = next((one for one in outputs if one.finish_reason is not FinishReason.LENGTH), None)
            if failed is not None:
                yield 0, failed
                return
            if beams[0].last is None:
                yield 0, _prompt_output(outputs[0])
            beams, ended = self._grow(beams, outputs)
            closed = self._best(closed, ended)
            if self._is_settled(beams, closed):
                break
            texts = {beam: _text_of(beam, texts) for beam in beams}
        found = self._best(closed, beams)
        assert len(found) == self._width, len(found)
        for index, beam in enumerate(found):
            for output in self._outputs_of(beam):
                yield index, output
                await asyncio.sleep(0)  # there may be millions of tokens, and others wait for the loop

    def _best(self, *beams: Iterable[Beam]) -> list[Beam]:
        """Merge beams that each come best first. Of equals, the earlier ones stay first."""
        merged = heapq.merge(*beams, key=lambda beam: beam.score(self._length_penalty), reverse=True)
        return list(itertools.islice(merged, self._width))

    def _is_settled(self, open_beams: Sequence[Beam], closed: Sequence[Beam]) -> bool:
        """Whether no open beam can still become one of the best: probabilities only fall from here on."""
        if len(closed) < self._width:
            return False
        length = self._sampling.max_tokens if self._length_penalty > 0 else open_beams[0].length
        hope = max(beam.logprob for beam in open_beams) / math.pow(length, self._length_penalty)
        return hope <= closed[-1].score(self._length_penalty)

    def _grow(self, beams: Sequence[Beam], outputs: Sequence[RequestOutput]) -> tuple[list[Beam], list[Beam]]:
        """Extend beams by their candidates. Return the best open ones, and the best of those that ended."""
        tops = [output.logprobs[0].top for output in outputs]
        open_ones = map(self._candidates, beams, tops, itertools.repeat(False))
        ended = map(self._candidates, beams, tops, itertools.repeat(True))
        return self._best(*open_ones), self._best(*ended)

    def _candidates(self, beam: Beam, top: list[tuple[int, float]], ends: bool) -> Iterator[Beam]:
        """Extend a beam by those candidates that end it, or do not, best first. Few are ever asked for."""
        num_top = self._sampling.num_logprobs or 0
        if ends and beam.length < self._sampling.min_tokens:
            return
        for rank, (token_id, logprob) in enumerate(top, start=1):
            if (token_id in self._ending) is ends:
                token = TokenLogprobs(token_id, logprob, rank, top[:num_top])
                total = beam.logprob + max(logprob, LEAST_LOGPROB)
                yield Beam((beam, token), beam.length + 1, total, token_id if ends else None)

    async def _step(self, texts: Mapping[Beam, array[int]]) -> list[RequestOutput]:
        """Generate one token of each beam."""
        requests = [self._request_of(beam, text, i) for i, (beam, text) in enumerate(texts.items())]
        tasks = [asyncio.create_task(self._run(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _run(self, request: EngineRequest) -> RequestOutput:
        async with contextlib.aclosing(outputs_of(self._engine, request)) as outputs:
            return functools.reduce(merge, [output async for output in outputs])

    def _request_of(self, beam: Beam, text: array[int], index: int) -> EngineRequest:
        request = self._request
        return msgspec.structs.replace(
            request,
            request_id=f"{request.request_id}.{beam.length}.{index}",
            prompt_token_ids=text,
            sampling=SamplingParams(
                max_tokens=1,
                temperature=0.0,
                num_logprobs=self._num_candidates,
                num_prompt_logprobs=None if beam.length else self._sampling.num_prompt_logprobs,
            ),
        )

    def _outputs_of(self, beam: Beam) -> Iterator[RequestOutput]:
        tokens = beam.tokens
        *firsts, last = (tokens[i : i + TOKENS_PER_OUTPUT] for i in range(0, beam.length, TOKENS_PER_OUTPUT))
        yield from map(self._output_of, firsts)
        is_eos = beam.ended_by in self._sampling.eos_token_ids
        yield msgspec.structs.replace(
            self._output_of(last),
            finish_reason=FinishReason.LENGTH if beam.ended_by is None else FinishReason.STOP,
            stop_token_id=None if is_eos else beam.ended_by,
        )

    def _output_of(self, tokens: list[TokenLogprobs]) -> RequestOutput:
        return RequestOutput(
            request_id=self._request.request_id,
            token_ids=[token.token_id for token in tokens],
            logprobs=tokens if self._sampling.num_logprobs is not None else [],
        )


def _text_of(beam: Beam, texts: Mapping[Beam, array[int]]) -> array[int]:
    """What the engine reads of a grown beam: a copy, for walking back through all tokens takes too long."""
    assert beam.last is not None
    parent, token = beam.last
    return texts[parent] + array("I", [token.token_id])


def _prompt_output(output: RequestOutput) -> RequestOutput:
    """What the prompt's own step says of the prompt."""
    return RequestOutput(
        output.request_id,
        num_cached_tokens=output.num_cached_tokens,
        prompt_logprobs=output.prompt_logprobs,
        began_s=output.began_s,
    )

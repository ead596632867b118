"""Which whole sequences an encoder computes in the next step.

A sequence takes part in one step, from its first token to its last, so there are no blocks, no chunks and
no preemption; the order of service is that of `waiting_queue.py`.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from engine.errors import RequestTooLargeError
from engine.messages import EngineStats, FinishReason, RequestOutput
from engine.request import Request
from engine.step import Admission, StepPlan
from engine.waiting_queue import WaitingQueue, rank_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.messages import EngineRequest
    from engine.step import StepResult
    from engine.token_matcher import TokenMatcher


class EncoderScheduler:
    """Owns the sequences. One thread calls it, as it would call `Scheduler`.

    A plan consists of admissions alone. Their rows number the sequences of the step, and end with it.
    """

    def __init__(
        self,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is that of the deadlines."""
        assert max_model_len <= max_num_batched_tokens, "the longest sequence must fit a step"
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_model_len = max_model_len
        self._requests: dict[str, Request] = {}
        self._waiting = WaitingQueue(clock)
        self._in_flight: deque[tuple[StepPlan, list[Request]]] = deque()
        self._expired: list[RequestOutput] = []  # since the last call of `end_early`
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_finished = 0
        self._num_aborted = 0
        self._num_failed = 0

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to run."""
        return bool(self._requests)

    def stats(self) -> EngineStats:
        """Gauges of this moment and counters since the start."""
        return EngineStats(
            num_running=len(self._requests) - len(self._waiting),
            num_waiting=len(self._waiting),
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_finished=self._num_finished,
            num_aborted=self._num_aborted,
            num_failed=self._num_failed,
        )

    def add(self, source: EngineRequest, matcher: TokenMatcher | None = None) -> None:
        """Put a sequence into the queue. It generates nothing, so that it follows no grammar.

        Raises:
            RequestTooLargeError: it is longer than the model allows.
        """
        assert source.request_id not in self._requests, source.request_id
        assert source.pooling is not None, "an encoder generates nothing"
        assert matcher is None, "an encoder generates nothing"
        if len(source.prompt_token_ids) > self._max_model_len:
            raise RequestTooLargeError(
                f"{len(source.prompt_token_ids)} tokens are more than {self._max_model_len}"
            )
        if not self._requests:
            self._waiting.settle()
        rank = rank_of(source.priority, self._num_steps, self._num_arrivals)
        request = Request(source, rank, self._max_model_len, uses_cache=False)
        self._num_arrivals += 1
        self._num_prompt_tokens += request.num_prompt_tokens
        self._requests[request.request_id] = request
        self._waiting.add(request)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a sequence. Return its last output; None for an unknown id."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return None
        if request.row is None:
            self._waiting.remove(request)
        self._num_aborted += 1
        return RequestOutput(request_id, finish_reason=FinishReason.ABORTED)

    def end_early(self) -> list[RequestOutput]:
        """Return the last outputs of sequences that came too late to begin."""
        expired, self._expired = self._expired, []
        return expired

    def reset_prefix_cache(self) -> None:
        """Do nothing: there is no cache."""

    def schedule(self) -> StepPlan | None:
        """Plan a step; None if nothing waits."""
        admissions: list[Admission] = []
        requests: list[Request] = []
        budget = self._max_num_batched_tokens

        def admit(request: Request) -> bool:
            nonlocal budget
            if len(requests) == self._max_num_seqs or request.num_prompt_tokens > budget:
                return False
            request.row = len(requests)
            budget -= request.num_prompt_tokens
            request.account.charge(request.num_prompt_tokens)
            requests.append(request)
            admissions.append(
                Admission(
                    request.row,
                    request.token_ids,
                    request.num_prompt_tokens,
                    request.sampling,
                    pooling=request.pooling,
                )
            )
            return True

        for request in self._waiting.offer(admit):
            self._expire(request)
        if not requests:
            return None
        plan = StepPlan(released_rows=(), admissions=tuple(admissions), chunks=())
        self._in_flight.append((plan, requests))
        return plan

    def update(self, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        """Take in what the earliest step in flight computed; return what it brought to each sequence."""
        self._num_steps += 1
        planned, requests = self._in_flight.popleft()
        assert planned is plan, "steps are updated in the order of their plans"
        return [
            self._finish(request, result.embeddings[row])
            for row, request in enumerate(requests)
            if self._requests.get(request.request_id) is request
        ]

    def _expire(self, request: Request) -> None:
        """Forget a sequence that has left the queue."""
        del self._requests[request.request_id]
        self._num_aborted += 1
        self._expired.append(RequestOutput(request.request_id, finish_reason=FinishReason.EXPIRED))

    def _finish(self, request: Request, embedding: bytes | None) -> RequestOutput:
        del self._requests[request.request_id]
        if embedding is None:
            self._num_failed += 1
            return RequestOutput(
                request.request_id,
                num_cached_tokens=0,
                finish_reason=FinishReason.FAILED,
                error="numerical_error",
            )
        self._num_finished += 1
        return RequestOutput(
            request.request_id, num_cached_tokens=0, finish_reason=FinishReason.STOP, embedding=embedding
        )

"""Which sequences compute how many tokens in the next step.

- Decodes come first: a running sequence that lacks one token gets it. There are never more running
  sequences than tokens in a step, so the oldest prefill in progress gets at least one token, and it goes on
  before a new one starts.
- A prompt gets what is left of a step, or where there is a threshold, at most so many tokens of it: then a
  step takes hardly longer for a long prompt, and the decodes and short prompts beside it keep their pace.
- The oldest prompt leaves a part of that to shorter ones, a quarter to those of its tenant, and up to half to
  the first of each other tenant, also to one that is only about to begin. Who was served least is first.
- A waiting sequence is admitted when all its known tokens fit, and its adapter; who waits, and in what order,
  stands in `waiting_queue.py`.
- A sequence that follows a grammar is held until its last token is known, and which may follow it. The others
  go on meanwhile.
- A step may be planned while others are in flight: a token that they sample counts as known, although not
  which it is. So a sequence that ends by its token wastes what was planned for it meanwhile; one that ends
  by its length does not.
- When a running sequence needs a block and none is available, the last in order loses its blocks and is
  computed again later; so is one whose row goes to a tenant that has none. Before that, steps in flight come
  to their end. How all get on none the less stands in `running_set.py`.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from engine.errors import RequestTooLargeError
from engine.messages import EngineStats, FinishReason, RequestOutput
from engine.request import Request
from engine.running_set import RunningSet
from engine.step import Admission
from engine.step_draft import StepDraft
from engine.waiting_queue import MAX_BYPASSES, WaitingQueue, rank_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.account import Account
    from engine.messages import EngineRequest
    from engine.step import SampledToken, StepPlan, StepResult
    from engine.token_matcher import TokenMatcher

_SAMPLING_ERRORS = {-1: "numerical_error", -2: "no_token"}


class _Counters(msgspec.Struct):
    """Totals since the engine started."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_prefix_query_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_finished: int = 0
    num_aborted: int = 0
    num_failed: int = 0


class Scheduler:
    """Owns the sequences. One thread calls it.

    A step is `schedule()`, then the runner, then `update()`. Steps may overlap, and are updated in the order
    of their plans; `add` and `abort` may come at any time.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        enable_prefix_caching: bool = True,
        max_loras: int = 0,
        long_prefill_token_threshold: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; sizes are those of `EngineConfig`, and `clock` is that of the deadlines."""
        assert max_num_seqs > 0, max_num_seqs
        assert max_num_batched_tokens > 0, max_num_batched_tokens
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_chunk_tokens = long_prefill_token_threshold or max_num_batched_tokens
        self._max_model_len = max_model_len
        self._enable_prefix_caching = enable_prefix_caching
        self._requests: dict[str, Request] = {}
        self._matched: dict[str, Request] = {}  # those with a grammar
        self._waiting = WaitingQueue(clock)
        num_rows = min(max_num_seqs, max_num_batched_tokens)
        self._running = RunningSet(num_rows, num_blocks, block_size, max_loras)
        self._in_flight: deque[tuple[StepPlan, list[Request]]] = deque()  # with the sequence of each chunk
        self._num_arrivals = 0
        self._expired: list[RequestOutput] = []  # since the last call of `end_early`
        self._counters = _Counters()

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to run."""
        return bool(self._requests)

    def stats(self) -> EngineStats:
        """Gauges of this moment and counters since the start."""
        pool = self._running.pool
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_free_blocks=pool.num_free,
            num_owned_blocks=pool.num_owned,
            num_cached_blocks=pool.num_cached,
            block_size=pool.block_size,
            **msgspec.structs.asdict(self._counters),
        )

    def add(self, source: EngineRequest, matcher: TokenMatcher | None = None) -> None:
        """Put a sequence into the queue, with what follows its grammar if it has one.

        Raises:
            RequestTooLargeError: it could never be computed to its end.
        """
        assert source.request_id not in self._requests, source.request_id
        if not self._requests:
            self._waiting.settle()
        rank = rank_of(source.priority, self._counters.num_steps, self._num_arrivals)
        uses_cache = self._enable_prefix_caching and not source.bypass_prefix_cache
        request = Request(source, rank, self._max_model_len, uses_cache, matcher)
        if request.num_prompt_tokens + (request.pooling is None) > self._max_model_len:
            raise RequestTooLargeError(
                f"{request.num_prompt_tokens} prompt tokens leave no room in {self._max_model_len}"
            )
        if not self._running.can_ever_hold(request):
            pool = self._running.pool
            raise RequestTooLargeError(
                f"{request.max_num_tokens} tokens do not fit {pool.num_blocks} blocks of {pool.block_size}"
            )
        self._num_arrivals += 1
        self._counters.num_prompt_tokens += request.num_prompt_tokens
        self._requests[request.request_id] = request
        if matcher is not None:
            self._matched[request.request_id] = request
        self._waiting.add(request)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a sequence and free its blocks. Return its last output; None for an unknown id."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._counters.num_aborted += 1
        self._end(request)
        return RequestOutput(request_id, finish_reason=FinishReason.ABORTED)

    def end_early(self) -> list[RequestOutput]:
        """End the sequences whose grammars have ended, and return their last outputs.

        So are those of sequences that were given up because it was too late to begin.
        """
        expired, self._expired = self._expired, []
        ended = [request for request in self._matched.values() if request.ending is not None]
        return expired + [self._end_at_grammar(request) for request in ended]

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks that no running sequence owns."""
        self._running.pool.forget_cached()

    # Planning

    def schedule(self) -> StepPlan | None:
        """Plan a step; None if there is nothing to run, or nothing before a step in flight is updated."""
        for request in self._waiting.drop_late():
            self._expire(request)
        draft = StepDraft(self._max_num_batched_tokens, self._max_chunk_tokens)
        may_preempt = not self._in_flight
        preempted = self._running.grow(may_preempt)
        if preempted is None:
            return None
        yielding = [] if preempted else self._running.yield_row(self._waiting.first, may_preempt)
        if yielding is None:
            return None
        self._put_back(preempted)
        self._continue_running(draft, may_admit=not preempted)
        if not preempted:
            self._admit_waiting(draft)
        self._put_back(yielding)  # only now, lest it gets the row again
        plan = draft.finish(self._running.released_rows)
        if plan is None:
            is_stuck = self._requests and not self._in_flight and not self._matched
            assert not is_stuck, "nothing can run, yet something waits"
        else:
            self._running.released_rows.clear()
            self._in_flight.append((plan, self._running.computed_by(plan)))
        return plan

    def _put_back(self, preempted: list[Request]) -> None:
        self._counters.num_preemptions += len(preempted)
        for request in preempted:
            self._waiting.add(request)

    def _continue_running(self, draft: StepDraft, may_admit: bool) -> None:
        decodes, prefills = [], []
        for request in self._running:
            num_tokens = 0 if request.is_held else request.num_unplanned_tokens
            if num_tokens == 1:
                decodes.append(request)
            elif num_tokens > 1:
                prefills.append(request)
        # A device that begins with the longest contexts is not left with one of them at the end.
        decodes.sort(key=lambda request: request.num_planned_tokens, reverse=True)
        for request in decodes:
            draft.give(request, 1)
        if prefills and draft.budget:
            self._continue_prefills(draft, prefills, may_admit)

    def _continue_prefills(self, draft: StepDraft, prefills: list[Request], may_admit: bool) -> None:
        """Let prompts go on: the oldest one, the first of each other tenant, and the others by age.

        The next to be admitted is one of these firsts, too, if its tenant has no other: its tokens are kept.
        """
        oldest = prefills[0]
        firsts: dict[Account, Request] = {}
        for request in prefills:
            firsts.setdefault(request.account, request)
        newcomer = self._waiting.first if may_admit else None
        if newcomer is not None:
            firsts.setdefault(newcomer.account, newcomer)
        del firsts[oldest.account]
        wanted = {request: self._num_wanted_by(request) for request in firsts.values()}
        draft.give(oldest, draft.budget - self._num_left_by(oldest, wanted, prefills, draft.budget))
        num_kept = 0
        for request in sorted(wanted, key=lambda request: request.account.served):
            num_tokens = min(wanted[request], draft.budget - num_kept)
            if request is newcomer:
                num_kept = num_tokens
            elif num_tokens > 0:
                draft.give(request, num_tokens)
        for request in prefills:
            if request is not oldest and request not in wanted and draft.budget > num_kept:
                draft.give(request, draft.budget - num_kept)

    def _num_left_by(
        self, oldest: Request, wanted: dict[Request, int], prefills: list[Request], budget: int
    ) -> int:
        """How many tokens of a step the oldest prompt leaves; to leave some to equals would only delay it."""
        if any(0 < num_tokens < oldest.num_unplanned_tokens for num_tokens in wanted.values()):
            return min(budget // 2, sum(wanted.values()))
        return budget // 4 if self._has_shorter(prefills) else 0

    def _num_wanted_by(self, request: Request) -> int:
        """How many tokens a sequence would compute in this step; 0 if it is in the queue, and stays there."""
        if request.row is not None:
            return min(request.num_unplanned_tokens, self._max_chunk_tokens)
        if request.is_held:
            return 0
        if request.num_bypasses < MAX_BYPASSES:
            block_size = self._running.pool.block_size
            frontier = {each.next_key(block_size) for each in self._running} - {None}
            if self._running.first_missing_key(request) in frontier:
                return 0
        return min(self._running.num_missing_tokens(request) or 0, self._max_chunk_tokens)

    def _has_shorter(self, prefills: list[Request]) -> bool:
        """Whether a prompt would wait for more of the oldest one than it lacks itself."""
        num_tokens = prefills[0].num_unplanned_tokens
        if any(request.num_unplanned_tokens < num_tokens for request in prefills):
            return True
        return self._running.has_free_row and self._waiting.has_shorter(num_tokens)

    def _admit_waiting(self, draft: StepDraft) -> None:
        if not self._waiting or not self._running.has_free_row or not draft.budget:
            return
        for request in self._running:
            self._add_to_frontier(draft, request)
        for request in self._waiting.offer(lambda request: self._admit(request, draft)):
            self._expire(request)

    def _add_to_frontier(self, draft: StepDraft, request: Request) -> None:
        key = request.next_key(self._running.pool.block_size)
        if key is not None:
            draft.frontier.add(key)

    def _admit(self, request: Request, draft: StepDraft) -> bool:
        """Start a waiting sequence if it can run now, and say so."""
        if not self._running.has_free_row or not draft.budget or request.is_held:
            return False
        if request.num_bypasses < MAX_BYPASSES and self._running.first_missing_key(request) in draft.frontier:
            return False  # a running sequence is computing its prefix; soon that is a cache hit
        if not self._running.seat(request):
            return False
        assert request.row is not None
        self._count_first_admission(request)
        draft.admissions.append(
            Admission(
                request.row,
                request.token_ids[:],
                request.num_prompt_tokens,
                request.sampling,
                request.adapter,
                request.adapter_slot,
                request.pooling,
            )
        )
        draft.give(request, draft.budget)
        self._add_to_frontier(draft, request)
        return True

    def _count_first_admission(self, request: Request) -> None:
        if request.is_announced:
            return
        request.num_cached_tokens = request.num_computed_tokens
        request.account.charge(request.num_prompt_tokens - request.num_cached_tokens)
        if request.reads_cache:
            self._counters.num_prefix_query_tokens += request.num_prompt_tokens
            self._counters.num_prefix_hit_tokens += request.num_cached_tokens

    # Results

    def update(self, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        """Take in what the earliest step in flight computed; return what it brought to each sequence."""
        self._counters.num_steps += 1
        outputs = []
        sampled_tokens = iter(result.sampled)
        planned, requests = self._in_flight.popleft()
        advance = self._running.advance
        assert planned is plan, "steps are updated in the order of their plans"
        for chunk, request in zip(plan.chunks, requests, strict=True):
            sampled = next(sampled_tokens) if chunk.samples else None
            if request.row is None:
                continue  # it ended after the step was planned
            advance(request, chunk.num_tokens)
            if request.sampling.num_prompt_logprobs is not None:
                request.prompt_logprobs += result.prompt_logprobs.get(chunk.row, [])
            if sampled is not None:
                assert sampled.row == chunk.row, (sampled, chunk)
                outputs.append(self._take_token(request, sampled))
            elif chunk.row in result.embeddings:
                outputs.append(self._take_embedding(request, result.embeddings[chunk.row]))
            elif not request.is_announced:
                num_cached_tokens = request.take_num_cached_tokens()
                outputs.append(RequestOutput(request.request_id, num_cached_tokens=num_cached_tokens))
        return outputs

    def _take_token(self, request: Request, sampled: SampledToken) -> RequestOutput:
        if sampled.token_id < 0:
            return self._fail(request, _SAMPLING_ERRORS[sampled.token_id])
        num_cached_tokens = request.take_num_cached_tokens()
        self._counters.num_generated_tokens += 1
        request.account.charge(1)
        finish_reason, stop_token_id = request.append(sampled.token_id)
        if finish_reason is not None:
            self._counters.num_finished += 1
            self._end(request)
        return RequestOutput(
            request.request_id,
            [sampled.token_id],
            [] if sampled.logprobs is None else [sampled.logprobs],
            num_cached_tokens,
            request.take_prompt_logprobs(),
            finish_reason,
            stop_token_id,
        )

    def _take_embedding(self, request: Request, embedding: bytes | None) -> RequestOutput:
        if embedding is None:
            return self._fail(request)
        self._counters.num_finished += 1
        self._end(request)
        return RequestOutput(
            request.request_id,
            num_cached_tokens=request.take_num_cached_tokens(),
            finish_reason=FinishReason.STOP,
            embedding=embedding,
        )

    def _fail(self, request: Request, error: str = "numerical_error") -> RequestOutput:
        """End a sequence whose result cannot be used."""
        self._running.pool.forget(request.block_ids)  # they may hold NaN
        self._counters.num_failed += 1
        self._end(request)
        return RequestOutput(
            request.request_id,
            num_cached_tokens=request.take_num_cached_tokens(),
            finish_reason=FinishReason.FAILED,
            error=error,
        )

    def _end_at_grammar(self, request: Request) -> RequestOutput:
        is_complete = request.ending is FinishReason.COMPLETE
        self._counters.num_finished += is_complete
        self._counters.num_failed += not is_complete
        self._end(request)
        return RequestOutput(
            request.request_id,
            num_cached_tokens=request.take_num_cached_tokens(),
            finish_reason=FinishReason.COMPLETE if is_complete else FinishReason.FAILED,
            error=None if is_complete else "bad_grammar",
        )

    # Leaving

    def _end(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._matched.pop(request.request_id, None)
        if request.row is None:
            self._waiting.remove(request)
        else:
            self._running.vacate(request)

    def _expire(self, request: Request) -> None:
        """Forget a sequence that has left the queue."""
        del self._requests[request.request_id]
        self._matched.pop(request.request_id, None)
        self._counters.num_aborted += 1
        self._expired.append(RequestOutput(request.request_id, finish_reason=FinishReason.EXPIRED))

"""Runs the real scheduler on the fake runner and checks, after each action, all that must ever hold.

I1 free, owned and cached blocks make up the pool; reference counts are right
I2 sequences share a block only where their tokens up to it, their salts and their adapters are equal; nobody
   writes to a shared or findable block
I3 a block table covers the computed tokens, and never more than the sequence can need
I4 a sequence is in one place only; a step keeps its budgets
I5 every token is what the sequence gets when it runs alone
I6 each sequence has outputs in the promised order and exactly one end
L1 everything ends when nothing more arrives   L2 no step is empty while something can run
L3 at most 8 preemptions of a sequence   L4 at most 8 bypasses of a waiting sequence
L5 all blocks are free at the end   L6 a decode, and the oldest prefill, get on in each step
F1 the queue's order is that of the tenants' fair shares
D1 nothing begins after its deadline, and only what is too late expires
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fair_order import FairOrder
from fake_runner import FakeRunner, solo_output

from engine.errors import RequestTooLargeError
from engine.messages import FinishReason
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from array import array

    from fake_runner import FakePendingStep

    from engine.messages import EngineRequest, RequestOutput, TokenLogprobs
    from engine.request import Request
    from engine.step import StepPlan

MOST_PREEMPTIONS = 8
MOST_BYPASSES = 8


@dataclass(frozen=True)
class Profile:
    """Sizes of a simulated engine."""

    num_blocks: int
    block_size: int
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 16
    max_model_len: int = 48
    enable_prefix_caching: bool = True
    max_steps_in_flight: int = 1
    max_loras: int = 0
    long_prefill_token_threshold: int = 0


@dataclass
class Transcript:
    """All that one sequence was told."""

    request: EngineRequest
    expected_token_ids: list[int]
    expected_finish_reason: FinishReason
    is_sabotaged: bool = False
    token_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None

    def take(self, output: RequestOutput) -> None:
        assert self.finish_reason is None, "I6: an output after the end"
        if output.num_cached_tokens is not None:
            assert self.num_cached_tokens is None, "I6: admitted twice"
            self.num_cached_tokens = output.num_cached_tokens
        if output.token_ids:
            assert self.num_cached_tokens is not None, "I6: a token before admission"
            self._take_tokens(output)
        self.finish_reason = output.finish_reason
        if output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert self.token_ids == self.expected_token_ids, "I5: ended early"
            assert output.finish_reason is self.expected_finish_reason, "I6: the wrong reason"
            is_stop_token = self.token_ids[-1] in self.request.sampling.stop_token_ids
            assert output.stop_token_id == (self.token_ids[-1] if is_stop_token else None)
        if output.finish_reason is FinishReason.EXPIRED:
            assert self.num_cached_tokens is None, "D1: expired after it had begun"
        if output.finish_reason is FinishReason.FAILED:
            assert self.is_sabotaged, "I6: failed without a cause"
            assert output.error == "numerical_error"

    def _take_tokens(self, output: RequestOutput) -> None:
        is_first = not self.token_ids
        self.token_ids += output.token_ids
        assert self.token_ids == self.expected_token_ids[: len(self.token_ids)], "I5: a wrong token"
        sampling = self.request.sampling
        logprob_ids = [entry.token_id for entry in output.logprobs]
        assert logprob_ids == (output.token_ids if sampling.num_logprobs is not None else [])
        has_prompt_logprobs = is_first and sampling.num_prompt_logprobs is not None
        assert (output.prompt_logprobs is not None) == has_prompt_logprobs
        if output.prompt_logprobs is not None:
            prompt = self.request.prompt_token_ids
            assert [entry.token_id for entry in output.prompt_logprobs] == prompt[1:]


class Simulation:
    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        sizes = (
            profile.num_blocks,
            profile.block_size,
            profile.max_num_seqs,
            profile.max_num_batched_tokens,
            profile.max_model_len,
        )
        self.runner = FakeRunner(*sizes)
        self.now_s = 0.0
        """A step takes a second."""
        self.scheduler = Scheduler(
            *sizes,
            profile.enable_prefix_caching,
            profile.max_loras,
            profile.long_prefill_token_threshold,
            clock=lambda: self.now_s,
        )
        self.fair = FairOrder()
        self.live: dict[str, Transcript] = {}
        self.ended: list[Transcript] = []
        self._num_bypasses: dict[str, int] = {}
        self._late: dict[str, Request] = {}
        """Who left the queue, and is not told yet."""
        self._in_flight: deque[tuple[StepPlan, FakePendingStep, Request | None]] = deque()

    # Actions

    def add(self, request: EngineRequest) -> None:
        expected = solo_output(request, self.profile.max_model_len)
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        num_computed = min(num_tokens, self.profile.max_model_len) - 1
        fits = num_computed <= self.profile.num_blocks * self.profile.block_size
        if not self.live:
            self.fair = FairOrder()
        try:
            self.scheduler.add(request)
        except RequestTooLargeError:
            assert not fits or len(request.prompt_token_ids) >= self.profile.max_model_len
        else:
            assert fits, "a sequence that can never run to its end was accepted"
            self.live[request.request_id] = Transcript(request, *expected)
            self.fair.arrive(self.scheduler._requests[request.request_id])
        self.check()

    def abort(self, request_id: str) -> None:
        request = self.scheduler._requests.get(request_id)
        if request is not None and request.row is None:
            self.fair.leave(request)
        output = self.scheduler.abort(request_id)
        assert (output is not None) == (request_id in self.live)
        if output is not None:
            assert output.finish_reason is FinishReason.ABORTED
            self._take(output)
            self._num_bypasses.pop(request_id, None)
        self.check()

    def reset_prefix_cache(self) -> None:
        self.scheduler.reset_prefix_cache()
        assert self.scheduler.stats().num_cached_blocks == 0
        self.check()

    def step(self, abort_midway: str | None = None, sabotage: str | None = None) -> None:
        """Launch a step, and collect the earliest when no other may be launched.

        A sequence may be aborted while a step runs, and one of the new step gets logits of NaN.
        """
        self.now_s += 1.0
        queue = self._in_order_without_late()
        plan = self.scheduler.schedule()
        self._follow_queue(queue)
        if plan is None:
            assert self._in_flight or not self.live, "L2: nothing is run"
        else:
            self._check_plan(plan)
            victim = self._sabotage(sabotage, plan)
            self._in_flight.append((plan, self.runner.launch(plan), victim))
        if abort_midway is not None and self._in_flight:
            self.abort(abort_midway)
        if self._in_flight and (plan is None or len(self._in_flight) == self.profile.max_steps_in_flight):
            self._collect()
        self.check()

    def _collect(self) -> None:
        plan, pending, victim = self._in_flight.popleft()
        suspect_blocks = list(victim.block_ids) if victim else []
        requests = dict(self.scheduler._requests)
        for output in self.scheduler.update(plan, pending.collect()):
            self.fair.charge(requests[output.request_id], len(output.token_ids))
            self._take(output)
        keys = self.scheduler._running.pool._keys
        assert not any(keys[block_id] for block_id in suspect_blocks), "NaN may be shared"

    def finish_live(self) -> None:
        """Let everything end."""
        num_tokens = sum(
            len(t.request.prompt_token_ids) + t.request.sampling.max_tokens for t in self.live.values()
        )
        for _ in range(2 * num_tokens * (MOST_PREEMPTIONS + 1) + 1):
            if not self.live:
                break
            self.step()
        assert not self.live, "L1: something never ends"
        while self._in_flight:
            self.step()

    def finish(self) -> None:
        """Let everything end, and see that nothing is left."""
        self.finish_live()
        assert self.scheduler.schedule() is None
        stats = self.scheduler.stats()
        assert stats.num_owned_blocks == stats.num_running == stats.num_waiting == 0, "L5"
        self.reset_prefix_cache()
        assert self.scheduler.stats().num_free_blocks == self.profile.num_blocks, "L5"
        endings = [transcript.finish_reason for transcript in self.ended]
        num_expired = endings.count(FinishReason.EXPIRED)
        assert stats.num_aborted == endings.count(FinishReason.ABORTED) + num_expired
        assert stats.num_failed == endings.count(FinishReason.FAILED)
        assert stats.num_finished == len(endings) - stats.num_aborted - stats.num_failed

    def _sabotage(self, request_id: str | None, plan: StepPlan) -> Request | None:
        request = self.scheduler._requests.get(request_id or "")
        rows = {chunk.row for chunk in plan.chunks if chunk.samples}
        if request is None or request.row not in rows:
            return None
        self.live[request.request_id].is_sabotaged = True
        self.runner.failing_rows.add(request.row)
        return request

    def _take(self, output: RequestOutput) -> None:
        assert output.request_id in self.live, "I6: an output of a sequence that has ended"
        transcript = self.live[output.request_id]
        if output.num_cached_tokens is not None:
            self._check_hit(transcript, output.num_cached_tokens)
        transcript.take(output)
        if transcript.finish_reason is not None:
            self.ended.append(self.live.pop(output.request_id))

    # Checks

    def check(self) -> None:
        scheduler = self.scheduler
        running = list(scheduler._running)
        scheduler._running.pool.check_integrity([request.block_ids for request in running])  # I1
        stats = scheduler.stats()
        num_blocks = stats.num_free_blocks + stats.num_owned_blocks + stats.num_cached_blocks
        assert num_blocks == self.profile.num_blocks, "I1"
        self._check_places(running)
        self._check_sharing(running)
        for request in running:
            self._check_table(request)
        for request in scheduler._requests.values():
            assert request.num_preemptions <= MOST_PREEMPTIONS, "L3"

    def _check_places(self, running: list[Request]) -> None:
        waiting = list(self.scheduler._waiting.in_order())
        assert waiting == self.fair.in_order(), "F1: the queue is out of order"
        ids = [request.request_id for request in (*running, *waiting)]
        assert sorted(ids) == sorted(self.live) == sorted(self.scheduler._requests), "I4: not in one place"
        rows = sorted([*self.scheduler._running._by_row, *self.scheduler._running._free_rows])
        num_rows = min(self.profile.max_num_seqs, self.profile.max_num_batched_tokens)
        assert rows == list(range(num_rows)), "I4: a row is lost or taken twice"

    def _check_table(self, request: Request) -> None:
        capacity = len(request.block_ids) * self.profile.block_size
        assert request.num_computed_tokens <= capacity, "I3: computed tokens without a place"
        assert capacity < request.max_num_tokens - 1 + self.profile.block_size, "I3: more than it can need"
        if not request.uses_cache:
            keys = self.scheduler._running.pool._keys
            assert not any(keys[block_id] for block_id in request.block_ids), "bypasses, yet writes the cache"

    def _check_sharing(self, running: list[Request]) -> None:
        """I2, by salt, adapter and tokens up to the block's end."""
        meanings: dict[int, tuple[str, int, array[int]]] = {}
        for request in running:
            source = self.live[request.request_id].request
            for index, block_id in enumerate(request.block_ids):
                tokens = request.token_ids[: (index + 1) * self.profile.block_size]
                meaning = (source.cache_salt, source.adapter, tokens)
                assert meanings.setdefault(block_id, meaning) == meaning, "I2: shared without a right to"

    def _check_hit(self, transcript: Transcript, num_tokens: int) -> None:
        request = transcript.request
        assert 0 <= num_tokens < len(request.prompt_token_ids), "the last prompt token is always computed"
        assert num_tokens % self.profile.block_size == 0
        if num_tokens:
            assert self.profile.enable_prefix_caching
            assert not request.bypass_prefix_cache, "bypasses, yet reads the cache"
            assert request.sampling.num_prompt_logprobs is None, "its prompt needs logits"
            hit = request.prompt_token_ids[:num_tokens]
            assert any(
                (*other.request.prompt_token_ids, *other.token_ids)[:num_tokens] == tuple(hit)
                and other.request.cache_salt == request.cache_salt
                and other.request.adapter == request.adapter
                and not other.request.bypass_prefix_cache
                for other in (*self.live.values(), *self.ended)
                if other is not transcript
            ), "a hit that nobody of this salt has computed"

    def _check_plan(self, plan: StepPlan) -> None:
        scheduler = self.scheduler
        pool = scheduler._running.pool
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= self.profile.max_num_batched_tokens, "I4"
        threshold = self.profile.long_prefill_token_threshold
        assert not threshold or all(chunk.num_tokens <= threshold for chunk in plan.chunks), "a long chunk"
        chunks = {chunk.row: chunk for chunk in plan.chunks}
        has_oldest_prefill = False
        for row, request in scheduler._running._by_row.items():
            chunk = chunks.get(row)
            is_whole = chunk is not None and chunk.samples
            num_lacking = (chunk.num_tokens if chunk else 0) + (
                0 if is_whole else request.num_unplanned_tokens
            )
            if num_lacking == 1:
                assert chunk is not None, "L6: a decode is left out"
            elif num_lacking > 1 and not has_oldest_prefill:
                has_oldest_prefill = True
                assert chunk is not None, "L6: the oldest prefill is left out"
        for chunk in plan.chunks:
            first = chunk.start // self.profile.block_size
            last = (chunk.start + chunk.num_tokens - 1) // self.profile.block_size
            for block_id in scheduler._running._by_row[chunk.row].block_ids[first : last + 1]:
                assert pool._ref_counts[block_id] == 1, "I2: a write to a shared block"
                assert pool._keys[block_id] is None, "I2: a write to a findable block"

    def _follow_queue(self, queue: list[Request]) -> None:
        """L4: count who was admitted past whom. Also take out who expired, and who was preempted back in."""
        scheduler = self.scheduler
        running = set(map(id, scheduler._running))
        admitted = [request for request in queue if id(request) in running]
        for place, request in enumerate(queue):
            if request.row is None and request.request_id in scheduler._requests:
                num_admitted = sum(id(behind) in running for behind in queue[place + 1 :])
                request_id = request.request_id
                self._num_bypasses[request_id] = self._num_bypasses.get(request_id, 0) + num_admitted
                assert self._num_bypasses[request_id] <= MOST_BYPASSES, "L4"
            else:
                self._num_bypasses.pop(request.request_id, None)
        for request in admitted:
            assert request.num_preemptions or not self._is_late(request), "D1: begun after its deadline"
        self._take_expired()
        self.fair.admit(request for request in queue if request.request_id in scheduler._requests)
        known = set(map(id, queue))
        preempted = [each for each in scheduler._waiting.in_order() if id(each) not in known]
        for request in sorted(preempted, key=lambda each: each.rank, reverse=True):
            self.fair.arrive(request)

    def _in_order_without_late(self) -> list[Request]:
        """Those who are first while it is too late for them leave before anybody's turn is counted."""
        while (queue := self.fair.in_order()) and self._is_late(queue[0]) and not queue[0].num_preemptions:
            self.fair.leave(queue[0])
            self._late[queue[0].request_id] = queue[0]
        return queue

    def _is_late(self, request: Request) -> bool:
        return request.deadline_s is not None and self.now_s >= request.deadline_s

    def _take_expired(self) -> None:
        requests = {each.request_id: each for waiting in self.fair.waiting.values() for each in waiting}
        for output in self.scheduler.end_early():
            assert output.finish_reason is FinishReason.EXPIRED
            late = self._late.pop(output.request_id, None)
            if late is None:
                late = requests[output.request_id]
                self.fair.leave(late)
            assert self._is_late(late), "D1: expired before its deadline"
            self._take(output)
        assert not self._late, "D1: late, and not told"

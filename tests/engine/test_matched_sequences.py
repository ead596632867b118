"""Sequences that follow a grammar, in the scheduler: held until their mask is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.messages import EngineRequest, FinishReason, SamplingParams
from engine.scheduler import Scheduler
from engine.step import SampledToken, StepResult

if TYPE_CHECKING:
    from engine.step import StepPlan


class HandMatcher:
    """Knows what the test tells it."""

    def __init__(self) -> None:
        self.mask: bytes | None = b"first"
        self.ending: FinishReason | None = None
        self.taken: list[int] = []

    def take(self, token_id: int) -> None:
        self.mask = None
        self.taken.append(token_id)


def make_scheduler(num_blocks: int = 64, max_num_batched_tokens: int = 16) -> Scheduler:
    return Scheduler(num_blocks, 4, 8, max_num_batched_tokens, max_model_len=128)


def make_request(name: str, num_prompt_tokens: int = 4, max_tokens: int = 20) -> EngineRequest:
    return EngineRequest(name, [ord(name)] * num_prompt_tokens, SamplingParams(max_tokens=max_tokens))


def result_of(plan: StepPlan, token_id: int = 9) -> StepResult:
    return StepResult(tuple(SampledToken(c.row, token_id) for c in plan.chunks if c.samples), {})


def run(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.update(plan, result_of(plan))
    return plan


@pytest.fixture
def matcher() -> HandMatcher:
    return HandMatcher()


def test_a_mask_goes_with_the_chunk_that_samples(matcher: HandMatcher) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", num_prompt_tokens=20), matcher)
    assert [chunk.mask for chunk in run(scheduler).chunks] == [None]
    assert [chunk.mask for chunk in run(scheduler).chunks] == [b"first"]
    assert matcher.taken == [9]


def test_others_go_on_while_a_sequence_is_held(matcher: HandMatcher) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a"), matcher)
    scheduler.add(make_request("b"))
    assert len(run(scheduler).chunks) == 2
    assert [chunk.mask for chunk in run(scheduler).chunks] == [None]
    assert [chunk.mask for chunk in run(scheduler).chunks] == [None]
    matcher.mask = b"second"
    assert {chunk.mask for chunk in run(scheduler).chunks} == {None, b"second"}


def test_a_step_in_flight_holds_only_those_with_a_grammar(matcher: HandMatcher) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a"), matcher)
    scheduler.add(make_request("b"))
    first = scheduler.schedule()
    second = scheduler.schedule()
    assert first is not None
    assert second is not None
    assert (len(first.chunks), len(second.chunks)) == (2, 1)


def test_a_lone_held_sequence_plans_nothing(matcher: HandMatcher) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a"), matcher)
    run(scheduler)
    assert scheduler.schedule() is None
    assert scheduler.has_requests


@pytest.mark.parametrize(
    ("ending", "error", "counter"),
    [(FinishReason.COMPLETE, None, "num_finished"), (FinishReason.FAILED, "bad_grammar", "num_failed")],
)
def test_the_end_of_a_grammar_ends_its_sequence(
    matcher: HandMatcher, ending: FinishReason, error: str | None, counter: str
) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a"), matcher)
    run(scheduler)
    assert scheduler.end_early() == []
    matcher.ending = ending
    assert scheduler.schedule() is None
    (output,) = scheduler.end_early()
    assert (output.finish_reason, output.error, output.token_ids) == (ending, error, [])
    assert not scheduler.has_requests
    assert getattr(scheduler.stats(), counter) == 1
    assert scheduler.stats().num_owned_blocks == 0


def test_a_length_or_an_abort_ends_it_too(matcher: HandMatcher) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", max_tokens=1), matcher)
    run(scheduler)
    assert matcher.taken == []
    assert not scheduler.has_requests
    scheduler.add(make_request("b"), HandMatcher())
    run(scheduler)
    output = scheduler.abort("b")
    assert output is not None
    assert output.finish_reason is FinishReason.ABORTED
    assert scheduler.end_early() == []


def test_a_preempted_sequence_comes_back_when_its_mask_is_there(matcher: HandMatcher) -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request("a", num_prompt_tokens=7, max_tokens=9))
    scheduler.add(make_request("b", num_prompt_tokens=3, max_tokens=9), matcher)
    run(scheduler)
    while scheduler.stats().num_preemptions == 0:
        run(scheduler)
    assert scheduler.stats().num_waiting == 1
    while scheduler.stats().num_finished == 0:
        run(scheduler)
    assert scheduler.schedule() is None
    matcher.mask = b"second"
    plan = run(scheduler)
    assert list(plan.admissions[0].token_ids) == [ord("b")] * 3 + [9]
    assert plan.chunks[0].mask == b"second"


def test_a_preempted_sequence_may_end_while_it_waits(matcher: HandMatcher) -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request("a", num_prompt_tokens=7, max_tokens=9))
    scheduler.add(make_request("b", num_prompt_tokens=3, max_tokens=9), matcher)
    while scheduler.stats().num_preemptions == 0:
        run(scheduler)
    matcher.ending = FinishReason.COMPLETE
    (output,) = scheduler.end_early()
    assert output.request_id == "b"
    assert scheduler.stats().num_waiting == 0

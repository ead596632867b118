from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from scheduler_simulation import Profile, Simulation

from engine.errors import RequestTooLargeError
from engine.messages import EngineRequest, FinishReason, SamplingParams
from engine.scheduler import Scheduler
from engine.step import SampledToken, StepResult

if TYPE_CHECKING:
    from engine.step import StepPlan


def make_request(
    name: str, prompt: list[int] | int = 4, max_tokens: int = 8, **fields: object
) -> EngineRequest:
    """A number as prompt stands for that many tokens, different for each name."""
    token_ids = [hash(name) % 1000 + 2] * prompt if isinstance(prompt, int) else prompt
    request = EngineRequest(name, token_ids, SamplingParams(max_tokens=max_tokens))
    return msgspec.structs.replace(request, **fields)


def make_scheduler(
    num_blocks: int = 64,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 16,
    long_prefill_token_threshold: int = 0,
) -> Scheduler:
    return Scheduler(
        num_blocks,
        4,
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len=128,
        long_prefill_token_threshold=long_prefill_token_threshold,
    )


def plan_step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    assert plan is not None
    return plan


def result_of(plan: StepPlan, token_id: int = 9) -> StepResult:
    return StepResult(tuple(SampledToken(c.row, token_id) for c in plan.chunks if c.samples), {})


def run_step(scheduler: Scheduler) -> StepPlan:
    plan = plan_step(scheduler)
    scheduler.update(plan, result_of(plan))
    return plan


def lengths(plan: StepPlan) -> dict[int, int]:
    return {chunk.row: chunk.num_tokens for chunk in plan.chunks}


def test_nothing_to_run() -> None:
    scheduler = make_scheduler()
    assert scheduler.schedule() is None
    assert not scheduler.has_requests


def test_admission_says_all_that_the_runner_needs() -> None:
    scheduler = make_scheduler()
    request = make_request("a", 6)
    scheduler.add(request)
    plan = plan_step(scheduler)
    (admission,) = plan.admissions
    (chunk,) = plan.chunks
    assert list(admission.token_ids) == request.prompt_token_ids
    assert (admission.num_prompt_tokens, admission.sampling) == (6, request.sampling)
    assert (chunk.row, chunk.start, chunk.num_tokens, chunk.samples) == (admission.row, 0, 6, True)
    assert len(chunk.new_block_ids) == 2


def test_a_long_prompt_comes_in_chunks_and_samples_at_its_end() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 40))
    chunks = [run_step(scheduler).chunks[0] for _ in range(4)]
    assert [(chunk.start, chunk.num_tokens) for chunk in chunks] == [(0, 16), (16, 16), (32, 8), (40, 1)]
    assert [chunk.samples for chunk in chunks] == [False, False, True, True]
    assert [len(chunk.new_block_ids) for chunk in chunks] == [10, 0, 0, 1]


def test_a_long_prompt_gets_its_keys_as_it_is_computed() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 40))
    request = scheduler._requests["a"]
    made = []
    for _ in range(3):
        plan = plan_step(scheduler)
        made.append(len(request.block_keys))
        scheduler.update(plan, result_of(plan))
    assert made == [1, 4, 8]
    assert len(request.block_keys) == 10


def test_decodes_come_first_and_the_prompt_takes_the_rest() -> None:
    scheduler = make_scheduler()
    for name in "abc":
        scheduler.add(make_request(name, 4))
    run_step(scheduler)
    scheduler.add(make_request("long", 100))
    plan = plan_step(scheduler)
    assert [chunk.num_tokens for chunk in plan.chunks] == [1, 1, 1, 13]


def test_a_long_prompt_leaves_a_part_of_the_step_to_a_short_one() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("long", 100))
    scheduler.add(make_request("short", 3))
    assert list(lengths(run_step(scheduler)).values()) == [16]
    assert list(lengths(run_step(scheduler)).values()) == [12, 3]


def test_long_prompts_of_one_length_come_one_after_the_other() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("first", 40))
    scheduler.add(make_request("second", 40))
    assert [list(lengths(run_step(scheduler)).values()) for _ in range(4)] == [[16], [16], [8, 8], [1, 15]]


def test_a_threshold_leaves_the_step_to_those_beside_a_long_prompt() -> None:
    scheduler = make_scheduler(long_prefill_token_threshold=6)
    scheduler.add(make_request("decode", 1))
    run_step(scheduler)
    scheduler.add(make_request("long", 20))
    scheduler.add(make_request("short", 5))
    scheduler.add(make_request("another", 9))
    assert [list(lengths(run_step(scheduler)).values()) for _ in range(4)] == [
        [1, 6, 5, 4],
        [1, 1, 6, 5],
        [1, 1, 1, 6],
        [1, 1, 1, 2],
    ]


def test_a_prompt_as_long_as_the_threshold_is_computed_at_once() -> None:
    scheduler = make_scheduler(long_prefill_token_threshold=6)
    scheduler.add(make_request("a", 6))
    (chunk,) = plan_step(scheduler).chunks
    assert (chunk.num_tokens, chunk.samples) == (6, True)


def test_never_more_sequences_than_tokens_in_a_step() -> None:
    scheduler = make_scheduler(max_num_seqs=8, max_num_batched_tokens=2)
    for name in "abcd":
        scheduler.add(make_request(name, 6))
    for _ in range(8):
        run_step(scheduler)
    assert scheduler.stats().num_running == 2


def test_priority_goes_first() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    scheduler.add(make_request("low", [5] * 4, priority=1))
    scheduler.add(make_request("high", [6] * 4, priority=0))
    assert list(plan_step(scheduler).admissions[0].token_ids) == [6] * 4


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "is_accepted"),
    [(127, 50, True), (128, 1, False), (500, 1, False), (60, 5, True), (64, 2, True)],
)
def test_refuses_a_prompt_that_fills_the_context(
    num_prompt_tokens: int, max_tokens: int, is_accepted: bool
) -> None:
    scheduler = make_scheduler()
    request = make_request("a", num_prompt_tokens, max_tokens)
    if is_accepted:
        scheduler.add(request)
    else:
        with pytest.raises(RequestTooLargeError):
            scheduler.add(request)
    assert scheduler.has_requests == is_accepted


def test_refuses_what_can_never_fit_and_takes_what_just_fits() -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request("fits", 10, max_tokens=7))
    with pytest.raises(RequestTooLargeError, match="4 blocks of 4"):
        scheduler.add(make_request("too large", 10, max_tokens=8))


def test_outputs_in_the_promised_order() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 20, max_tokens=2))
    outputs = []
    while (plan := scheduler.schedule()) is not None:
        outputs += scheduler.update(plan, result_of(plan))
    told = [(output.num_cached_tokens, output.token_ids, output.finish_reason) for output in outputs]
    assert told == [(0, [], None), (None, [9], None), (None, [9], FinishReason.LENGTH)]


@pytest.mark.check("R14")
def test_a_row_without_numbers_fails_alone_and_its_blocks_are_forgotten() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("bad", [5] * 4))
    scheduler.add(make_request("good", [6] * 4))
    plan = plan_step(scheduler)
    bad, good = plan.chunks
    result = StepResult((SampledToken(bad.row, -1), SampledToken(good.row, 9)), {})
    failed, lucky = scheduler.update(plan, result)
    assert (failed.finish_reason, failed.error) == (FinishReason.FAILED, "numerical_error")
    assert (lucky.finish_reason, lucky.token_ids) == (None, [9])
    assert scheduler.stats().num_cached_blocks == 0
    assert scheduler.stats().num_failed == 1
    assert plan_step(scheduler).released_rows == (bad.row,)


def test_a_repeated_prompt_is_found_in_the_cache() -> None:
    simulation = Simulation(Profile(num_blocks=16, block_size=4))
    simulation.add(make_request("first", list(range(2, 14))))
    simulation.finish_live()
    simulation.add(make_request("second", list(range(2, 14))))
    simulation.finish_live()
    assert simulation.ended[1].num_cached_tokens == 8
    stats = simulation.scheduler.stats()
    assert (stats.num_prefix_query_tokens, stats.num_prefix_hit_tokens) == (24, 8)


@pytest.mark.parametrize(
    "newcomer",
    [
        make_request("salted", list(range(2, 14)), cache_salt="other"),
        make_request("bypassing", list(range(2, 14)), bypass_prefix_cache=True),
        make_request(
            "scored", list(range(2, 14)), sampling=SamplingParams(max_tokens=8, num_prompt_logprobs=1)
        ),
    ],
    ids=lambda newcomer: newcomer.request_id,
)
def test_who_may_not_read_the_cache_computes(newcomer: EngineRequest) -> None:
    simulation = Simulation(Profile(num_blocks=16, block_size=4))
    simulation.add(make_request("first", list(range(2, 14))))
    simulation.finish_live()
    simulation.add(newcomer)
    simulation.finish_live()
    assert simulation.ended[1].num_cached_tokens == 0


def test_who_bypasses_the_cache_leaves_nothing_in_it() -> None:
    simulation = Simulation(Profile(num_blocks=16, block_size=4))
    simulation.add(make_request("first", 12, bypass_prefix_cache=True))
    simulation.finish_live()
    assert simulation.scheduler.stats().num_cached_blocks == 0


def test_copies_of_a_prompt_wait_for_the_first_and_share_its_blocks() -> None:
    simulation = Simulation(Profile(num_blocks=64, block_size=4, max_num_seqs=8))
    for number in range(4):
        simulation.add(make_request(f"copy{number}", list(range(2, 31))))
    simulation.step()
    assert simulation.scheduler.stats().num_running == 1
    simulation.step()
    simulation.step()
    assert simulation.scheduler.stats().num_running == 4
    assert simulation.scheduler.stats().num_owned_blocks == 7 + 4
    simulation.finish()
    assert [transcript.num_cached_tokens for transcript in simulation.ended] == [0, 28, 28, 28]


def test_preemption_takes_the_youngest_and_loses_no_token() -> None:
    simulation = Simulation(Profile(num_blocks=6, block_size=4))
    simulation.add(make_request("old", [5] * 8, max_tokens=12))
    simulation.add(make_request("young", [6] * 7, max_tokens=12))
    while not simulation.scheduler.stats().num_preemptions:
        simulation.step()
    assert simulation.scheduler._requests["young"].row is None
    assert simulation.live["young"].token_ids
    simulation.finish()
    assert {len(transcript.token_ids) for transcript in simulation.ended} == {12}


def test_a_huge_prompt_gets_in_although_small_ones_keep_coming() -> None:
    simulation = Simulation(Profile(num_blocks=12, block_size=4, max_num_seqs=8))
    for number in range(3):
        simulation.add(make_request(f"first{number}", 8, max_tokens=4))
    simulation.step()
    simulation.add(make_request("huge", 40, max_tokens=4))
    num_steps = 0
    while "huge" not in {transcript.request.request_id for transcript in simulation.ended}:
        simulation.add(make_request(f"small{num_steps}", 4, max_tokens=4))
        simulation.step()
        num_steps += 1
        assert num_steps < 60
    simulation.finish()


def test_small_ones_end_although_huge_prompts_keep_coming() -> None:
    simulation = Simulation(Profile(num_blocks=36, block_size=4, max_num_seqs=3))
    simulation.add(make_request("huge", 40, max_tokens=4))
    simulation.step()
    simulation.add(make_request("small", 4, max_tokens=4))
    num_steps = 0
    while "small" in simulation.live:
        simulation.add(make_request(f"huge{num_steps}", 40, max_tokens=4))
        simulation.step()
        num_steps += 1
        assert num_steps < 12
    simulation.finish()


def test_no_caching_at_all() -> None:
    profile = Profile(num_blocks=16, block_size=4, enable_prefix_caching=False)
    simulation = Simulation(profile)
    for number in range(2):
        simulation.add(make_request(f"r{number}", [5] * 12))
        simulation.finish_live()
    assert [transcript.num_cached_tokens for transcript in simulation.ended] == [0, 0]
    assert simulation.scheduler.stats().num_cached_blocks == 0

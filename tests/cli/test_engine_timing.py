"""The loop that benchmarks run, on the fake runner, and what its steps add up to."""

from __future__ import annotations

import pytest
from fake_runner import FakeRunner

from cli.engine_timing import StepTimes, TimedStep, make_scheduler, random_requests, run_steps, time_engine
from engine.messages import SamplingParams


def timed(ended_s: float, busy_s: float | None, host_s: float = 0.001) -> TimedStep:
    return TimedStep(
        4, num_tokens=4, num_sampled=4, ended_s=ended_s, host_s=host_s, wait_s=0.5, busy_s=busy_s
    )


@pytest.mark.parametrize("max_steps_in_flight", [1, 2])
def test_each_step_is_told_once(max_steps_in_flight: int) -> None:
    runner = FakeRunner(max_steps_in_flight=max_steps_in_flight)
    scheduler = make_scheduler(runner)
    sampling = SamplingParams(max_tokens=6, temperature=0.0)
    for request in random_requests("r", 3, 10, sampling, vocab_size=20):
        scheduler.add(request)
    steps = list(run_steps(runner, scheduler))
    assert sum(step.num_sampled for step in steps) == 3 * 6
    assert sum(step.num_tokens for step in steps) == 3 * (10 + 5)
    assert [step.decodes(3) for step in steps] == [False, *[True] * 5]
    assert all(step.host_s > 0 and step.wait_s >= 0 and step.busy_s is None for step in steps)
    assert [step.ended_s for step in steps] == sorted(step.ended_s for step in steps)
    assert scheduler.stats().num_cached_blocks == 0


def test_sequences_may_be_added_in_between() -> None:
    runner = FakeRunner(max_steps_in_flight=2)
    scheduler = make_scheduler(runner)
    first, second = random_requests("r", 2, 4, SamplingParams(max_tokens=3), vocab_size=20)
    scheduler.add(first)
    num_sampled = 0
    for step in run_steps(runner, scheduler):
        num_sampled += step.num_sampled
        if num_sampled == 1:
            scheduler.add(second)
    assert num_sampled == 6


def test_time_engine() -> None:
    runner = FakeRunner()
    first_s, step_s = time_engine(runner, make_scheduler(runner), 3, prompt_len=10, output_len=6)
    assert first_s > 0
    assert step_s > 0


def test_what_steps_add_up_to() -> None:
    times = StepTimes.of([timed(10.0, 9.0), timed(11.0, 0.9, 0.002), timed(13.0, 1.5), timed(14.0, 0.9)])
    assert times.mean_s == pytest.approx(4 / 3)
    assert (times.median_s, times.worst_s) == (1.0, 2.0)
    assert (times.host_s, times.wait_s) == (0.001, 0.5)
    assert times.idle == pytest.approx(1 - 3.3 / 4)


def test_a_cpu_has_no_idle_time() -> None:
    assert StepTimes.of([timed(1.0, None), timed(2.0, None)]).idle is None


def test_clocks_that_differ_a_little_make_no_negative_share() -> None:
    assert StepTimes.of([timed(1.0, 1.0), timed(2.0, 1.001)]).idle == 0.0

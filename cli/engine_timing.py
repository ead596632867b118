"""How long the engine's steps take in this process, without server and doors."""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.messages import EngineRequest, SamplingParams
from engine.scheduler import Scheduler
from engine.step_clock import StepClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.core import PendingStep, Runner
    from engine.step import StepPlan


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step that has ended. Times are in seconds."""

    num_seqs: int
    num_tokens: int
    """Computed, of prompts and outputs."""
    num_sampled: int
    ended_s: float
    """When its result came, by `time.perf_counter`."""
    host_s: float
    """Work of the host since the step before: planning, launching, updating."""
    wait_s: float
    """How long the host then waited for the step to end."""
    busy_s: float | None
    """How long a GPU was at it; None on a CPU. See `engine/device_span.py`."""

    def decodes(self, num_seqs: int) -> bool:
        """Whether so many sequences computed one token each, and nobody else any."""
        return self.num_seqs == self.num_tokens == self.num_sampled == num_seqs


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a row of steps took, in seconds."""

    mean_s: float
    median_s: float
    worst_s: float
    host_s: float
    """Median."""
    wait_s: float
    """Median."""
    idle: float | None
    """Share of the time in which a GPU had no step to compute, from 0 to 1; None on a CPU."""

    @staticmethod
    def of(steps: Sequence[TimedStep]) -> StepTimes:
        """Describe steps that followed one another, at least two. Their time begins as the first ends."""
        periods = [after.ended_s - before.ended_s for before, after in pairwise(steps)]
        busy = [step.busy_s for step in steps[1:] if step.busy_s is not None]
        return StepTimes(
            mean_s=statistics.fmean(periods),
            median_s=statistics.median(periods),
            worst_s=max(periods),
            host_s=statistics.median(step.host_s for step in steps[1:]),
            wait_s=statistics.median(step.wait_s for step in steps[1:]),
            idle=max(0.0, 1 - sum(busy) / sum(periods)) if busy else None,
        )


def make_scheduler(runner: Runner) -> Scheduler:
    """Return a scheduler for the runner, which then takes plans from no other."""
    info = runner.info
    return Scheduler(
        info.num_blocks,
        info.block_size,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        info.max_model_len,
    )


def random_requests(
    name: str, num_seqs: int, prompt_len: int, sampling: SamplingParams, vocab_size: int
) -> list[EngineRequest]:
    """Return sequences with random prompts, the same for the same `name`, which begins their ids."""
    numbers = random.Random(name)
    return [
        EngineRequest(
            f"{name}-{index}",
            [numbers.randrange(vocab_size) for _ in range(prompt_len)],
            sampling,
            bypass_prefix_cache=True,
        )
        for index in range(num_seqs)
    ]


def time_engine(
    runner: Runner, scheduler: Scheduler, num_sequences: int, prompt_len: int, output_len: int
) -> tuple[float, float]:
    """Generate greedily from random prompts of equal length that start together.

    Returns:
        Seconds until all have their first token, and the median between steps in which all of them decode.
    """
    sampling = SamplingParams(max_tokens=output_len, temperature=0.0)
    for request in random_requests("together", num_sequences, prompt_len, sampling, runner.info.vocab_size):
        scheduler.add(request)
    start = time.perf_counter()
    token_times = [step.ended_s for step in run_steps(runner, scheduler) for _ in range(step.num_sampled)]
    first_round, *_ = rounds = token_times[num_sequences - 1 :: num_sequences]
    return first_round - start, statistics.median(after - before for before, after in pairwise(rounds))


def run_steps(runner: Runner, scheduler: Scheduler) -> Iterator[TimedStep]:
    """Run everything as the engine's loop does, and yield each step that has ended.

    Sequences may be added in between. What the caller does then is work of the host.
    """
    in_flight: deque[tuple[StepPlan, PendingStep]] = deque()
    clock = StepClock()
    clock.resume()
    while scheduler.has_requests or in_flight:
        plan = scheduler.schedule()
        if plan is not None:
            in_flight.append((plan, runner.launch(plan)))
            if len(in_flight) < runner.max_steps_in_flight:
                continue
        ended, pending = in_flight.popleft()
        clock.pause()
        result = pending.collect()
        ended_s, wait_s = time.perf_counter(), clock.since_pause()
        clock.resume()
        scheduler.update(ended, result)
        yield TimedStep(
            num_seqs=len(ended.chunks),
            num_tokens=sum(chunk.num_tokens for chunk in ended.chunks),
            num_sampled=len(result.sampled),
            ended_s=ended_s,
            host_s=clock.take(),
            wait_s=wait_s,
            busy_s=result.busy_s,
        )

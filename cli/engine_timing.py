"""How long the engine's steps take in this process, without server and doors."""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.messages import EngineRequest, SamplingParams
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from engine.model_runner import ModelRunner
    from engine.pending_step import PendingStep
    from engine.step import StepPlan


def make_scheduler(runner: ModelRunner) -> Scheduler:
    """Return a scheduler for the runner, which then takes plans from no other."""
    info = runner.info
    return Scheduler(
        info.num_blocks,
        info.block_size,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        info.max_model_len,
    )


def time_engine(
    runner: ModelRunner, scheduler: Scheduler, num_sequences: int, prompt_len: int, output_len: int
) -> tuple[float, float]:
    """Generate greedily from random prompts of equal length that start together.

    Returns:
        Seconds until all have their first token, and the median between steps in which all of them decode.
    """
    numbers = random.Random(output_len)
    for index in range(num_sequences):
        token_ids = [numbers.randrange(runner.info.vocab_size) for _ in range(prompt_len)]
        sampling = SamplingParams(max_tokens=output_len, temperature=0.0)
        scheduler.add(EngineRequest(str(index), token_ids, sampling, bypass_prefix_cache=True))
    start = time.perf_counter()
    token_times = [at for at, num_tokens in _steps(runner, scheduler) for _ in range(num_tokens)]
    first_round, *_ = rounds = token_times[num_sequences - 1 :: num_sequences]
    return first_round - start, statistics.median(after - before for before, after in pairwise(rounds))


def _steps(runner: ModelRunner, scheduler: Scheduler) -> list[tuple[float, int]]:
    """Run everything as the engine's loop does; return when each step's result came, and its tokens."""
    in_flight: deque[tuple[StepPlan, PendingStep]] = deque()
    steps = []
    while scheduler.has_requests or in_flight:
        plan = scheduler.schedule()
        if plan is not None:
            in_flight.append((plan, runner.launch(plan)))
            if len(in_flight) < runner.max_steps_in_flight:
                continue
        planned, pending = in_flight.popleft()
        result = pending.collect()
        steps.append((time.perf_counter(), len(result.sampled)))
        scheduler.update(planned, result)
    return steps

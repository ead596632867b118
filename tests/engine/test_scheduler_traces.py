"""Timed traces of valid requests that overlap: each gets the tokens that it gets alone, and none waits long.

A trace says at which step requests come, which are cancelled, and which of those come again. All is drawn
from a seed: few beginnings that many share, all kinds of sampling, and far more than the pool can hold.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

import pytest
from fake_runner import EOS, STOP
from scheduler_simulation import Profile, Simulation

from engine.messages import EngineRequest, FinishReason, SamplingParams

pytestmark = pytest.mark.check("P04")

NUM_TRACES = 200
MANY_TRACES = 2000
OUTLIER = 10
"""Times the median: what no request's latency may exceed."""
PROFILES = (
    Profile(num_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=12),
    Profile(num_blocks=16, block_size=4, max_num_seqs=8, max_num_batched_tokens=24, max_steps_in_flight=2),
    Profile(num_blocks=64, block_size=1, max_num_seqs=6, max_num_batched_tokens=16, max_steps_in_flight=3),
    Profile(num_blocks=24, block_size=2, max_num_seqs=4, max_num_batched_tokens=8),
)
PREFIXES: tuple[list[int], ...] = ([], [2, 3, 4, 5], [2, 3, 4, 5, 6, 7, 8, 9], [9] * 16)


@dataclass(frozen=True)
class Arrival:
    """A request, the step at which it comes, and that at which its caller goes, if it does."""

    step: int
    request: EngineRequest
    leaves_at: int | None = None


def make_trace(dice: random.Random, num_requests: int = 24) -> list[Arrival]:
    """Draw a trace. Who leaves may come again, under another id."""
    arrivals: list[Arrival] = []
    for number in range(num_requests):
        step = dice.randrange(40)
        request = _draw_request(dice, f"r{number}")
        if dice.random() < 0.3:
            leaves_at = step + dice.randrange(12)
            arrivals.append(Arrival(step, request, leaves_at))
            if dice.random() < 0.5:
                arrivals.append(Arrival(leaves_at + 1, replace_id(request, f"r{number}-again")))
        else:
            arrivals.append(Arrival(step, request))
    return sorted(arrivals, key=lambda arrival: arrival.step)


def replace_id(request: EngineRequest, request_id: str) -> EngineRequest:
    return EngineRequest(
        request_id,
        request.prompt_token_ids,
        request.sampling,
        cache_salt=request.cache_salt,
        bypass_prefix_cache=request.bypass_prefix_cache,
    )


def _draw_request(dice: random.Random, request_id: str) -> EngineRequest:
    sampling = SamplingParams(
        max_tokens=dice.randint(4, 20),
        min_tokens=dice.choice([0, 0, 3]),
        eos_token_ids=dice.choice([(), (EOS,)]),
        stop_token_ids=dice.choice([(), (STOP,)]),
        num_logprobs=dice.choice([None, None, 1]),
        num_prompt_logprobs=dice.choice([None, None, None, 0]),
    )
    prompt = [*dice.choice(PREFIXES), *dice.choices(range(2, 6), k=dice.randint(1, 10))]
    salt = dice.choice(["", "", "tenant"])
    return EngineRequest(request_id, prompt, sampling, 0, salt, dice.random() < 0.1)


def replay(seed: int) -> tuple[Simulation, dict[str, int]]:
    """Run a trace; the simulation checks every token. Return each finished request's latency, in steps."""
    dice = random.Random(seed)
    simulation = Simulation(PROFILES[seed % len(PROFILES)])
    trace = make_trace(dice)
    arrived: dict[str, int] = {}
    latencies: dict[str, int] = {}
    now = 0
    while now <= trace[-1].step or simulation.live:
        for arrival in trace:
            if arrival.step == now:
                arrived[arrival.request.request_id] = now
                simulation.add(arrival.request)
            if arrival.leaves_at == now:
                simulation.abort(arrival.request.request_id)
        simulation.step()
        now += 1
        for transcript in simulation.ended:
            request_id = transcript.request.request_id
            if transcript.finish_reason is not FinishReason.ABORTED:
                latencies.setdefault(request_id, now - arrived[request_id])
        assert now < 10_000, "something hangs"
    simulation.finish()
    return simulation, latencies


def check_traces(seeds: range) -> list[Simulation]:
    simulations = []
    for seed in seeds:
        simulation, latencies = replay(seed)
        median = statistics.median(latencies.values())
        assert max(latencies.values()) <= OUTLIER * median, f"trace {seed}: an outlier in {latencies}"
        simulations.append(simulation)
    return simulations


def test_each_request_gets_what_it_gets_alone() -> None:
    """Also that the traces are as hard as they should be: the pool is full, and prefixes are shared."""
    stats = [simulation.scheduler.stats() for simulation in check_traces(range(NUM_TRACES))]
    assert sum(one.num_preemptions for one in stats) > NUM_TRACES
    assert sum(one.num_prefix_hit_tokens for one in stats) > NUM_TRACES
    assert sum(one.num_aborted for one in stats) > NUM_TRACES


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_request_of_many_traces_gets_what_it_gets_alone() -> None:
    first = random.randrange(10**9)  # a failure names its trace
    check_traces(range(first, first + MANY_TRACES))

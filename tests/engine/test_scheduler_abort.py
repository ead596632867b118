"""Abort at every step and in every phase: blocks free at once, one end, and the id can come back."""

from __future__ import annotations

import pytest
from scheduler_simulation import Profile, Simulation

from engine.messages import EngineRequest, FinishReason, SamplingParams

pytestmark = pytest.mark.check("P03")

NUM_PHASES = 12
"""Steps that the sequence below takes: queued, four prefill chunks, decodes, ended."""


def make_simulation(max_steps_in_flight: int = 1) -> Simulation:
    simulation = Simulation(
        Profile(
            num_blocks=24,
            block_size=4,
            max_num_seqs=2,
            max_num_batched_tokens=8,
            max_steps_in_flight=max_steps_in_flight,
        )
    )
    simulation.add(EngineRequest("neighbour", [7] * 9, SamplingParams(max_tokens=12)))
    simulation.step()
    simulation.add(make_request())
    return simulation


def make_request() -> EngineRequest:
    return EngineRequest("target", list(range(2, 27)), SamplingParams(max_tokens=5))


@pytest.mark.parametrize("is_midway", [False, True], ids=["between-steps", "while-a-step-runs"])
@pytest.mark.parametrize("num_steps", range(NUM_PHASES))
@pytest.mark.parametrize("max_steps_in_flight", [1, 2])
def test_abort_at_each_step(max_steps_in_flight: int, num_steps: int, is_midway: bool) -> None:
    simulation = make_simulation(max_steps_in_flight)
    for _ in range(num_steps):
        simulation.step()
    was_live = "target" in simulation.live
    if is_midway:
        simulation.step(abort_midway="target")
    else:
        simulation.abort("target")
    assert "target" not in simulation.live
    assert "target" not in simulation.scheduler._requests
    reasons = [t.finish_reason for t in simulation.ended if t.request.request_id == "target"]
    assert reasons == [FinishReason.ABORTED if was_live else FinishReason.LENGTH]
    simulation.abort("target")
    simulation.add(make_request())
    simulation.finish()
    assert simulation.ended[-1].finish_reason is FinishReason.LENGTH


def test_the_phases_above_are_all_there_are() -> None:
    simulation = make_simulation()
    num_steps = 0
    while "target" in simulation.live:
        simulation.step()
        num_steps += 1
    assert 5 < num_steps < NUM_PHASES


def test_abort_while_preempted() -> None:
    simulation = Simulation(Profile(num_blocks=6, block_size=4))
    simulation.add(EngineRequest("old", [5] * 8, SamplingParams(max_tokens=12)))
    simulation.add(EngineRequest("young", [6] * 7, SamplingParams(max_tokens=12)))
    while not simulation.scheduler.stats().num_preemptions:
        simulation.step()
    simulation.abort("young")
    simulation.finish()


def test_abort_of_an_unknown_id_is_ignored() -> None:
    simulation = make_simulation()
    simulation.abort("unknown")
    simulation.finish()

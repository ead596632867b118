"""No tenant and no request starves another. Time is counted in steps."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from figures import show
from scheduler_simulation import MOST_BYPASSES, Profile, Simulation

from engine.messages import EngineRequest, FinishReason, SamplingParams
from engine.running_set import MAX_YIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.step import StepPlan

pytestmark = pytest.mark.check("R18")

ROWS = Profile(num_blocks=256, block_size=4, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64)


def request(
    name: str, tenant: str = "", num_prompt: int = 8, max_tokens: int = 8, **fields: object
) -> EngineRequest:
    """A prompt that no other name has."""
    seed = sum(name.encode()) + len(name)
    prompt = [2 + (seed * (place + 1) + place) % 29 for place in range(num_prompt)]
    made = EngineRequest(name, prompt, SamplingParams(max_tokens=max_tokens), tenant=tenant)
    return msgspec.structs.replace(made, **fields)


def steps_to_first_token(simulation: Simulation, name: str, most: int = 200) -> int:
    for number in range(1, most):
        simulation.step()
        transcripts = [simulation.live.get(name), *simulation.ended]
        if any(
            each is not None and each.request.request_id == name and each.token_ids for each in transcripts
        ):
            return number
    raise AssertionError(f"{name} waits for more than {most} steps")


def flood(simulation: Simulation, count: int, priority: int) -> None:
    """Each sequence of it is as long as another, but they do not end together."""
    for number in range(count):
        simulation.add(request(f"flood{number}", "flood", max_tokens=4 + number % 8, priority=priority))


@pytest.mark.parametrize("priority", [0, -(2**31)], ids=["plain", "urgent"])
def test_a_light_tenant_waits_for_no_place_of_a_flood(priority: int) -> None:
    """100 requests of one tenant stand before those of another, which come one at a time: a row is taken for
    each of them, from a sequence that goes on later."""
    simulation = Simulation(ROWS)
    flood(simulation, 100, priority=priority)
    for _ in range(3):
        simulation.step()
    waits = []
    for number in range(8):
        simulation.add(request(f"light{number}", "light"))
        waits.append(steps_to_first_token(simulation, f"light{number}"))
        assert len(simulation.scheduler._waiting) > 8, "the flood has ended"
        while f"light{number}" in simulation.live:
            simulation.step()
    assert max(waits) == 1
    simulation.finish()


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_no_sequence_yields_more_than_a_few_times(steps_in_flight: int) -> None:
    """Scenario: long answers of one tenant take all rows, and another asks again and again. Result: it gets a
    row at once while it takes one from somebody for the first few times; all come to their right end."""
    profile = replace(ROWS, num_blocks=1024, max_model_len=256, max_steps_in_flight=steps_in_flight)
    simulation = Simulation(profile)
    for number in range(8):
        simulation.add(request(f"long{number}", "flood", max_tokens=240))
    simulation.step()
    waits = []
    for number in range(40):
        simulation.add(request(f"light{number}", "light", max_tokens=1))
        waits.append(steps_to_first_token(simulation, f"light{number}"))
        simulation.step()  # in which who yielded goes on
        assert all(each.num_preemptions <= MAX_YIELDS for each in simulation.scheduler._requests.values())
    assert max(waits[: 8 * MAX_YIELDS]) <= 2 * steps_in_flight
    assert simulation.scheduler.stats().num_preemptions == 8 * MAX_YIELDS
    simulation.finish()


def test_a_tenant_that_is_alone_loses_no_row() -> None:
    simulation = Simulation(ROWS)
    flood(simulation, 100, priority=0)
    for _ in range(20):
        simulation.step()
    assert simulation.scheduler.stats().num_preemptions == 0


def test_nobody_loses_the_last_row() -> None:
    simulation = Simulation(replace(ROWS, max_num_seqs=2))
    for tenant in ("one", "two", "three"):
        simulation.add(request(tenant, tenant, max_tokens=20))
    for _ in range(10):
        simulation.step()
    assert simulation.live["three"].num_cached_tokens is None
    assert simulation.scheduler.stats().num_preemptions == 0
    simulation.finish()


def test_who_has_the_most_over_its_weight_yields() -> None:
    simulation = Simulation(ROWS)
    for tenant, weight, count in (("heavy", 4.0, 5), ("plain", 1.0, 3)):
        for number in range(count):
            simulation.add(request(f"{tenant}{number}", tenant, max_tokens=20, weight=weight))
    simulation.step()
    simulation.add(request("light", "light"))
    simulation.step()
    by_name = simulation.scheduler._requests
    assert [name for name, each in by_name.items() if each.row is None] == ["plain2"]
    simulation.finish()


def test_no_row_is_taken_for_what_does_not_fit() -> None:
    """Its blocks are not there, or its grammar is not."""
    simulation = Simulation(replace(ROWS, num_blocks=34))
    for number in range(8):
        simulation.add(request(f"flood{number}", "flood", max_tokens=6))
    simulation.step()
    simulation.add(request("large", "light", num_prompt=60, max_tokens=1))
    for _ in range(3):
        simulation.step()
    assert simulation.scheduler.stats().num_preemptions == 0
    simulation.finish()


@dataclass(frozen=True)
class Flood:
    """A hundred requests of each of some tenants, each followed by the next when it has ended."""

    num_rows: int
    num_prompt: int
    max_tokens: int
    step_len: int = 256
    """Tokens of a step at most. A light tenant's prompts have 100."""
    num_tenants: int = 1

    def keep_up(self, simulation: Simulation, numbers: Iterator[int]) -> None:
        """Replace what has ended. They do not end together."""
        live = Counter(each.request.tenant for each in simulation.live.values())
        for tenant in (f"flood{number}" for number in range(self.num_tenants)):
            for number in itertools.islice(numbers, 100 - live[tenant]):
                max_tokens = self.max_tokens + number % 8
                simulation.add(unlike_any(f"{tenant}-{number}", self.num_prompt, max_tokens, tenant))


def unlike_any(name: str, num_prompt: int, max_tokens: int, tenant: str) -> EngineRequest:
    """A request that finds nothing in the cache, as prompts of others do."""
    return request(name, tenant, num_prompt, max_tokens, bypass_prefix_cache=True)


class Quick(Simulation):
    """Without the checks that other tests have, which take most of the time."""

    def check(self) -> None: ...


def waits_of_a_light_tenant(flood: Flood, is_alone: bool) -> list[int]:
    """Steps until the first token of each of its requests, which come one at a time, after any pause."""
    simulation = Quick(
        Profile(4096, 4, flood.num_rows, max_num_batched_tokens=flood.step_len, max_model_len=1024)
    )
    dice, numbers, waits = random.Random(0), itertools.count(), []

    def step() -> None:
        if not is_alone:
            flood.keep_up(simulation, numbers)
        simulation.step()

    for number in range(100):
        for _ in range(dice.randint(10, 30)):
            step()
        name = f"light{number}"
        simulation.add(unlike_any(name, 100, 2, "light"))
        transcript = simulation.live[name]
        waits.append(0)
        while not transcript.token_ids:
            step()
            waits[-1] += 1
    return waits


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(Flood(128, 200, 8), id="long prompts"),
        pytest.param(Flood(128, 8, 8), id="short prompts"),
        pytest.param(Flood(8, 200, 4), id="long prompts, few rows"),
        pytest.param(Flood(8, 8, 4), id="short prompts, few rows"),
        pytest.param(Flood(8, 8, 200), id="long answers, few rows"),
        pytest.param(Flood(128, 800, 8), id="prompts of several steps"),
        pytest.param(Flood(8, 800, 4), id="prompts of several steps, few rows"),
        pytest.param(Flood(128, 800, 8, step_len=64), id="prompts of many steps"),
        pytest.param(Flood(128, 120, 8, step_len=128), id="prompts of a step"),
        pytest.param(Flood(128, 800, 8, num_tenants=2), id="two floods"),
        pytest.param(Flood(128, 800, 8, num_tenants=3), id="three floods"),
    ],
)
def test_a_flood_hardly_delays_the_first_token_of_a_light_tenant(flood: Flood) -> None:
    """Where all rows are taken, one is taken for it; where prompts fill all steps, it gets a part of them."""
    alone = waits_of_a_light_tenant(flood, is_alone=True)
    beside = waits_of_a_light_tenant(flood, is_alone=False)
    show("R18", flood=repr(flood), alone=Counter(alone), beside=Counter(beside))
    assert max(beside) <= 2 * max(alone)
    assert sum(beside) < 2 * sum(alone)


class Chunks(Simulation):
    """Notes how many tokens each sequence computes in a step."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.steps: list[dict[str, int]] = []

    def _check_plan(self, plan: StepPlan) -> None:
        super()._check_plan(plan)
        computing = self.scheduler._running.computed_by(plan)
        self.steps.append(
            {each.request_id: chunk.num_tokens for each, chunk in zip(computing, plan.chunks, strict=True)}
        )


LARGE = Profile(4096, 4, 16, max_num_batched_tokens=64, max_model_len=4096)


def test_what_others_do_not_want_is_the_oldest_prompts() -> None:
    simulation = Chunks(LARGE)
    simulation.add(unlike_any("long", 2000, 1, "one"))
    for number in range(10):
        simulation.step()
        simulation.add(unlike_any(f"short{number}", 8, 1, "other"))
    assert simulation.steps[1:] == [{"long": 56, f"short{number}": 8} for number in range(9)]


def test_no_more_is_kept_for_a_newcomer_than_it_may_compute() -> None:
    simulation = Chunks(replace(LARGE, long_prefill_token_threshold=16))
    for number in range(4):
        simulation.add(unlike_any(f"long{number}", 200, 1, "one"))
    simulation.step()
    simulation.add(unlike_any("newcomer", 200, 1, "other"))
    simulation.step()
    assert simulation.steps[1] == {"long0": 16, "long1": 16, "long2": 16, "newcomer": 16}


def test_newcomers_do_not_stop_a_prompt_of_another_tenant() -> None:
    simulation = Simulation(LARGE)
    simulation.add(unlike_any("long", 2000, 1, "one"))
    simulation.add(unlike_any("middle", 100, 1, "two"))
    for number in range(10):
        simulation.step()
        simulation.add(unlike_any(f"newcomer{number}", 30, 1, "three"))
    assert "middle" not in simulation.live
    assert "long" in simulation.live


def test_who_is_too_late_is_in_nobodys_way() -> None:
    """All rows are taken, and one is taken from their tenant for the next of another, not for its first."""
    simulation = Simulation(replace(ROWS, max_num_seqs=4))
    for number in range(4):
        simulation.add(request(f"flood{number}", "flood", max_tokens=50))
    simulation.step()
    simulation.step()
    simulation.add(request("late", "light", deadline_s=1.0))
    simulation.add(request("in time", "light"))
    assert steps_to_first_token(simulation, "in time") == 1
    assert "late" not in simulation.live
    simulation.finish()


def test_while_both_wait_they_are_served_by_their_weights() -> None:
    simulation = Simulation(ROWS)
    for number in range(150):
        for tenant, weight in (("one", 1.0), ("three", 3.0)):
            simulation.add(request(f"{tenant}{number}", tenant, weight=weight))
    for _ in range(150):
        simulation.step()
    served = {"one": 0, "three": 0}
    for each in (*simulation.live.values(), *simulation.ended):
        served[each.request.tenant] += len(each.token_ids)
    assert min(served.values()) > 100
    # What runs at a time may be all of one tenant: 8 sequences of 16 tokens.
    assert abs(served["three"] - 3 * served["one"]) <= 3 * 8 * 16
    simulation.finish()


def test_long_outputs_cost_as_much_as_long_prompts() -> None:
    """One tenant asks little and wants much, the other the other way round."""
    simulation = Simulation(ROWS)
    for number in range(120):
        simulation.add(request(f"talker{number}", "talker", num_prompt=4, max_tokens=20))
        simulation.add(request(f"reader{number}", "reader", num_prompt=20, max_tokens=4))
    for _ in range(120):
        simulation.step()
    served = {"talker": 0, "reader": 0}
    for each in (*simulation.live.values(), *simulation.ended):
        if each.num_cached_tokens is not None:
            tokens = len(each.request.prompt_token_ids) - each.num_cached_tokens + len(each.token_ids)
            served[each.request.tenant] += tokens
    assert 0.8 < served["talker"] / served["reader"] < 1.25
    simulation.finish()


def test_long_prompts_for_ever_do_not_stop_decodes() -> None:
    """A sequence that decodes gets a token in every step, whatever arrives."""
    profile = Profile(
        num_blocks=128, block_size=4, max_num_seqs=6, max_num_batched_tokens=16, max_model_len=64
    )
    simulation = Simulation(profile)
    simulation.add(request("decodes", "light", num_prompt=4, max_tokens=50))
    steps_to_first_token(simulation, "decodes")
    gaps, gap, number = [], 0, 0
    while "decodes" in simulation.live:
        simulation.add(request(f"long{number}", "flood", num_prompt=60, max_tokens=2))
        number += 1
        known = len(simulation.live["decodes"].token_ids)
        simulation.step()
        gap += 1
        if "decodes" not in simulation.live or len(simulation.live["decodes"].token_ids) > known:
            gaps.append(gap)
            gap = 0
    assert max(gaps) <= 2
    assert len(gaps) == 49


def test_a_huge_request_is_admitted_after_few_bypasses() -> None:
    profile = Profile(
        num_blocks=20, block_size=4, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=80
    )
    simulation = Simulation(profile)
    for number in range(4):
        simulation.add(request(f"first{number}", "small", max_tokens=6 + number))
    simulation.step()
    simulation.add(request("huge", "huge", num_prompt=64, max_tokens=4))
    num_admitted = 0
    while simulation.live["huge"].num_cached_tokens is None:
        name = f"small{num_admitted}"
        simulation.add(request(name, f"tenant{num_admitted % 3}", max_tokens=6))
        simulation.step()
        is_running = simulation.scheduler._requests["huge"].row is not None
        num_admitted += 1
        assert simulation.scheduler._requests["huge"].num_bypasses <= MOST_BYPASSES
        assert num_admitted < 60 or is_running
    simulation.finish()


@pytest.mark.check("R21")
def test_what_is_too_late_never_begins_and_is_told() -> None:
    simulation = Simulation(Profile(num_blocks=64, block_size=4, max_num_seqs=1))
    simulation.add(request("runs", max_tokens=10, deadline_s=3.0))
    simulation.add(request("too late", deadline_s=5.0))
    simulation.add(request("in time", deadline_s=100.0))
    simulation.finish()
    reasons = {each.request.request_id: each.finish_reason for each in simulation.ended}
    assert reasons == {
        "runs": FinishReason.LENGTH,
        "too late": FinishReason.EXPIRED,
        "in time": FinishReason.LENGTH,
    }

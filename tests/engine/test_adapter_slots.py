from __future__ import annotations

import random

import pytest
from scheduler_simulation import Profile, Simulation

from engine.adapter_slots import NO_SLOT, AdapterSlots
from engine.messages import EngineRequest, SamplingParams


def take(slots: AdapterSlots, adapter: int) -> int:
    slot = slots.find(adapter)
    assert slot is not None
    slots.hold(adapter, slot)
    return slot


def test_no_adapter_needs_no_slot() -> None:
    slots = AdapterSlots(0)
    assert take(slots, 0) == NO_SLOT
    slots.release(NO_SLOT)
    assert slots.find(7) is None


def test_sequences_of_one_adapter_share_a_slot() -> None:
    slots = AdapterSlots(2)
    assert take(slots, 7) == take(slots, 7) != take(slots, 8)
    assert slots.find(9) is None


def test_an_adapter_stays_until_its_place_is_needed_and_the_longest_unused_goes_first() -> None:
    slots = AdapterSlots(2)
    first, second = take(slots, 7), take(slots, 8)
    slots.release(first)
    slots.release(second)
    assert slots.find(8) == second
    assert slots.find(7) == first
    slots.release(take(slots, 7))
    assert slots.find(9) == second


def test_more_adapters_than_slots_take_turns_and_all_get_the_right_one() -> None:
    simulation = Simulation(
        Profile(num_blocks=40, block_size=4, max_num_seqs=6, max_loras=2, max_steps_in_flight=2)
    )
    dice = random.Random(0)
    for number in range(40):
        sampling = SamplingParams(max_tokens=dice.randint(1, 9))
        simulation.add(EngineRequest(f"r{number}", [2, 3, 4, 5, 6], sampling, adapter=number % 5))
        simulation.step()
    simulation.finish()


@pytest.mark.parametrize(("adapter", "num_cached_tokens"), [(7, 8), (8, 0), (0, 0)])
def test_cached_blocks_are_hit_by_the_same_adapter_only(adapter: int, num_cached_tokens: int) -> None:
    simulation = Simulation(Profile(num_blocks=40, block_size=4, max_loras=2))
    prompt, sampling = list(range(2, 12)), SamplingParams(max_tokens=2)
    simulation.add(EngineRequest("first", prompt, sampling, adapter=7))
    simulation.finish_live()
    simulation.add(EngineRequest("second", prompt, sampling, adapter=adapter))
    simulation.finish_live()
    assert simulation.ended[-1].num_cached_tokens == num_cached_tokens


def test_a_salt_cannot_stand_in_for_an_adapter() -> None:
    simulation = Simulation(Profile(num_blocks=40, block_size=4, max_loras=2))
    prompt, sampling = list(range(2, 12)), SamplingParams(max_tokens=2)
    simulation.add(EngineRequest("first", prompt, sampling, adapter=7))
    simulation.finish_live()
    for number, salt in enumerate(["7/", "7", "0/7/"]):
        simulation.add(EngineRequest(f"r{number}", prompt, sampling, cache_salt=salt))
        simulation.finish_live()
        assert simulation.ended[-1].num_cached_tokens == 0

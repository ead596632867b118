from __future__ import annotations

from engine.messages import EngineRequest, SamplingParams
from engine.request import Request
from engine.waiting_queue import AGEING_STEPS, MAX_AGEING_LEVELS, MAX_BYPASSES, WaitingQueue, rank_of


def make_request(name: str, number: int, priority: int = 0, num_steps: int = 0) -> Request:
    source = EngineRequest(name, [1], SamplingParams(max_tokens=1))
    return Request(source, rank_of(priority, num_steps, number), max_model_len=8, uses_cache=False)


def order_of(queue: WaitingQueue) -> list[str]:
    names: list[str] = []

    def refuse(request: Request) -> bool:
        names.append(request.request_id)
        return False

    queue.offer(refuse)
    return names


def test_first_come_first_served_within_a_priority() -> None:
    queue = WaitingQueue()
    for number, (name, priority) in enumerate([("a", 1), ("b", 0), ("c", 1), ("d", 0), ("e", -1)]):
        queue.add(make_request(name, number, priority))
    assert order_of(queue) == ["e", "b", "d", "a", "c"]
    assert len(queue) == 5


def test_waiting_makes_up_for_priority() -> None:
    queue = WaitingQueue()
    queue.add(make_request("old", 0, priority=2))
    queue.add(make_request("young", 1, priority=0, num_steps=2 * AGEING_STEPS - 1))
    queue.add(make_request("younger", 2, priority=0, num_steps=2 * AGEING_STEPS + 1))
    assert order_of(queue) == ["young", "old", "younger"]


def test_no_priority_is_low_enough_to_starve() -> None:
    queue = WaitingQueue()
    queue.add(make_request("lowest", 0, priority=2**31 - 1))
    queue.add(make_request("low", 1, priority=2**31 - 2))
    latest = 2 * MAX_AGEING_LEVELS * AGEING_STEPS + 1
    queue.add(make_request("highest", 2, priority=-(2**31), num_steps=latest))
    assert order_of(queue) == ["low", "lowest", "highest"]


def test_removes_from_the_middle() -> None:
    queue = WaitingQueue()
    requests = [make_request(name, number) for number, name in enumerate("abc")]
    for request in reversed(requests):
        queue.add(request)
    queue.remove(requests[1])
    assert order_of(queue) == ["a", "c"]


def test_a_few_may_pass_one_that_is_refused_then_all_wait_with_it() -> None:
    queue = WaitingQueue()
    big = make_request("big", 0)
    queue.add(big)
    for number in range(1, MAX_BYPASSES + 5):
        queue.add(make_request(f"small{number}", number))
    queue.offer(lambda request: request is not big)
    assert big.num_bypasses == MAX_BYPASSES
    assert len(queue) == 1 + 4
    assert order_of(queue) == ["big"]
    queue.offer(lambda request: True)
    assert len(queue) == 0
    assert big.num_bypasses == 0

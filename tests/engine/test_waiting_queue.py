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


def give_row(request: Request) -> bool:
    request.row = 0
    return True


def test_a_few_may_pass_one_that_is_refused_then_all_wait_with_it() -> None:
    queue = WaitingQueue()
    big = make_request("big", 0)
    queue.add(big)
    for number in range(1, MAX_BYPASSES + 5):
        queue.add(make_request(f"small{number}", number))
    queue.offer(lambda request: request is not big and give_row(request))
    assert big.num_bypasses == MAX_BYPASSES
    assert len(queue) == 1 + 4
    assert order_of(queue) == ["big"]
    queue.offer(give_row)
    assert len(queue) == 0
    assert big.num_bypasses == 0


def test_those_that_came_too_late_leave_unasked_and_pass_nobody() -> None:
    queue = WaitingQueue(clock=lambda: 5.0)
    first = make_request("first", 0)
    late = [make_request(f"late{number}", number) for number in range(1, MAX_BYPASSES + 3)]
    for request in late:
        request.deadline_s = 5.0
    early = make_request("early", MAX_BYPASSES + 3)
    early.deadline_s = 5.1
    for request in (first, *late, early):
        queue.add(request)
    asked: list[Request] = []

    def refuse(request: Request) -> bool:
        asked.append(request)
        return False

    assert queue.offer(refuse) == late
    assert asked == [first, early]
    assert len(queue) == 2
    assert first.num_bypasses == 0


def serve(queue: WaitingQueue, num_admitted: int) -> list[str]:
    """Admit one sequence at a time, and serve its tokens. Return their names."""
    names: list[str] = []

    def admit(request: Request) -> bool:
        if len(names) == num_admitted:
            return False
        names.append(request.request_id)
        request.account.charge(len(request.token_ids))
        return give_row(request)

    queue.offer(admit)
    return names


def fill(queue: WaitingQueue, tenant: str, count: int, weight: float = 1.0, **fields: int) -> None:
    for number in range(count):
        name = f"{tenant}{number}"
        source = EngineRequest(name, [1] * 4, SamplingParams(max_tokens=1), tenant=tenant, weight=weight)
        rank = rank_of(fields.get("priority", 0), fields.get("num_steps", 0), len(queue))
        queue.add(Request(source, rank, max_model_len=8, uses_cache=False))


def test_tenants_take_turns_however_much_one_of_them_sent_before() -> None:
    queue = WaitingQueue()
    fill(queue, "a", 100)
    fill(queue, "b", 2)
    assert serve(queue, 5) == ["a0", "b0", "a1", "b1", "a2"]


def test_a_tenant_is_served_by_its_weight() -> None:
    queue = WaitingQueue()
    fill(queue, "a", 100, weight=1.0)
    fill(queue, "b", 100, weight=3.0)
    served = "".join(name[0] for name in serve(queue, 80))
    assert (served.count("a"), served.count("b")) == (20, 60)


def test_priority_orders_the_sequences_of_a_tenant_alone() -> None:
    queue = WaitingQueue()
    fill(queue, "a", 1)
    fill(queue, "b", 2)
    fill(queue, "a", 1, priority=-5)
    assert serve(queue, 3) == ["a0", "b0", "a0"]


def test_outputs_count_too() -> None:
    queue = WaitingQueue()
    fill(queue, "a", 3)
    fill(queue, "b", 3)
    serve(queue, 2)
    queue._accounts["a"].charge(100)
    assert serve(queue, 3) == ["b1", "b2", "a1"]


def test_who_was_away_is_owed_nothing_and_owes_what_was_served() -> None:
    queue = WaitingQueue()
    fill(queue, "a", 200)
    serve(queue, 100)
    fill(queue, "b", 4)
    assert serve(queue, 6) == ["b0", "a100", "b1", "a101", "b2", "a102"]
    queue._accounts["b"].charge(1000)
    fill(queue, "c", 1)
    queue.remove(queue._accounts["b"].waiting[0])
    fill(queue, "b", 1)
    assert serve(queue, 3) == ["c0", "a103", "a104"]


def test_nothing_is_kept_once_nobody_is_left() -> None:
    queue = WaitingQueue()
    for number in range(50):
        fill(queue, f"tenant{number}", 2)
    serve(queue, 100)
    queue.settle()
    assert (len(queue), queue._accounts, queue._order) == (0, {}, [])
    fill(queue, "a", 1)
    assert queue._accounts["a"].served == 0.0


class Counted(float):
    """A number that counts how often it is compared."""

    num_comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.num_comparisons += 1
        return super().__eq__(other)

    def __lt__(self, other: float) -> bool:
        Counted.num_comparisons += 1
        return super().__lt__(other)

    __hash__ = float.__hash__


def test_a_turn_looks_at_few_however_many_tenants_wait() -> None:
    queue = WaitingQueue()
    num_tenants = 4096
    for number in range(num_tenants):
        fill(queue, f"t{number}.", 2)
    for account in queue._accounts.values():
        account.served = Counted(account.served)
    queue._order = [(account.served, account.number, account) for _, _, account in queue._order]
    Counted.num_comparisons = 0
    assert len(serve(queue, 1)) == 1
    assert 0 < Counted.num_comparisons < num_tenants / 2

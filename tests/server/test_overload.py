"""Ten times as much as the server can do: what is accepted is done, and the rest is refused for nothing.

Health answers as if nothing were the matter, and nobody waits beyond a deadline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from calls import Caller, calling, details_of
from fakes import FakeEngine, saying
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.messages import FinishReason
from pagewire.v1 import inference_pb2
from server.admission import Admission
from server.service import InferenceService

if TYPE_CHECKING:
    from server.rpc import Call

NUM_ROWS = 4
NUM_QUEUED = 8
FACTOR = 10
SPEC = inference_pb2.GenerationSpec(text="hi", stopping=inference_pb2.Stopping(max_tokens=3))


class SmallEngine(FakeEngine):
    """Runs a few sequences at a time. The others wait, and are begun in the order of their coming."""

    def __init__(self) -> None:
        super().__init__(saying(65), manual=True)

    def step(self) -> None:
        rows = dict(list(self._live.items())[:NUM_ROWS])
        others = {name: each for name, each in self._live.items() if name not in rows}
        self._live = rows
        super().step()
        self._live = self._live | others
        self._notify()


async def outcome(call: Any) -> str:
    """How a call ended: "done", or the reason of its refusal."""
    try:
        events = [event async for event in call]
    except grpc.aio.AioRpcError as error:
        return reason_of_refusal(error)
    return "done" if events[-1].HasField("finished") else "cut"


def reason_of_refusal(error: grpc.aio.AioRpcError) -> str:
    """It says when to come back, in both ways."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["RetryInfo"].retry_delay.seconds == 1
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    return str(details_of(error)["ErrorInfo"].reason)


async def run_to_end(caller: Caller, outcomes: list[asyncio.Task[str]]) -> Counter[str]:
    """Step the engine until all have an outcome."""
    while not all(each.done() for each in outcomes):
        if caller.engine.live:
            caller.engine.step()
        await asyncio.sleep(0)
    return Counter(each.result() for each in outcomes)


@pytest.mark.check("R08")
async def test_what_is_accepted_is_done_and_the_rest_is_refused_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = 0
    prepare = InferenceService._prepare

    async def counted(*arguments: Any) -> Any:
        nonlocal prepared
        prepared += 1
        return await prepare(*arguments)

    monkeypatch.setattr(InferenceService, "_prepare", counted)
    async with calling(SmallEngine(), max_queued_requests=NUM_QUEUED) as caller:
        capacity = NUM_ROWS + NUM_QUEUED
        running = [asyncio.create_task(outcome(caller.stream(SPEC))) for _ in range(NUM_ROWS)]
        await caller.engine.until_submitted(NUM_ROWS)
        caller.engine.admit()
        while caller.server.services.admission.num_waiting:  # noqa: ASYNC110 - a count tells nobody
            await asyncio.sleep(0)
        more = [asyncio.create_task(outcome(caller.stream(SPEC))) for _ in range(FACTOR * capacity)]
        # The engine rests until all are refused that will be.
        pending = set(more)
        while len(pending) > NUM_QUEUED:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        assert caller.server.services.admission.num_live == capacity
        assert prepared == capacity
        counts = await run_to_end(caller, [*running, *more])
        assert counts == {"done": capacity, "QUEUE_FULL": FACTOR * capacity - NUM_QUEUED}
        assert len(caller.engine.requests) == capacity
        await caller.server.services.admission.drain(60, AssertionError())
        again = [asyncio.create_task(outcome(caller.stream(SPEC))) for _ in range(capacity - NUM_ROWS)]
        assert await run_to_end(caller, again) == {"done": capacity - NUM_ROWS}
        await caller.server.services.admission.drain(60, AssertionError())
        assert caller.server.services.admission.num_live == 0


@pytest.mark.check("R03")
async def test_health_answers_while_everything_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health asks nobody for admission: with the queue full and the pool of threads stuck, it answers."""
    admitted = 0
    admit = Admission.admit

    def counted(admission: Admission, call: Any) -> Any:
        nonlocal admitted
        admitted += 1
        return admit(admission, call)

    monkeypatch.setattr(Admission, "admit", counted)
    async with calling(SmallEngine(), max_queued_requests=NUM_QUEUED) as caller:
        waiting = [caller.stream(SPEC) for _ in range(NUM_QUEUED)]
        await caller.engine.until(NUM_QUEUED)
        health: Any = health_pb2_grpc.HealthStub(caller.channel)
        num_health = num_refused = 0
        for _ in range(FACTOR * NUM_QUEUED):
            refused = asyncio.create_task(outcome(caller.stream(SPEC)))
            response = await health.Check(health_pb2.HealthCheckRequest())
            num_health += response.status == health_pb2.HealthCheckResponse.SERVING
            num_refused += await refused == "QUEUE_FULL"
        assert num_health == num_refused == FACTOR * NUM_QUEUED
        assert admitted == NUM_QUEUED + num_refused
        for call in waiting:
            call.cancel()
        await caller.engine.until(0)


@pytest.mark.check("R03")
@pytest.mark.parametrize("num_waiting", [0, 100])
async def test_a_health_check_waits_for_nothing(num_waiting: int) -> None:
    """It is answered within one turn of the event loop, whatever waits."""
    async with calling(SmallEngine(), max_queued_requests=num_waiting) as caller:
        waiting = [caller.stream(SPEC) for _ in range(num_waiting)]
        await caller.engine.until(num_waiting)
        asked = health_pb2.HealthCheckRequest()
        check = caller.server.services._public_health.check(asked, cast("Call", None))
        with pytest.raises(StopIteration) as ended:
            check.send(None)
        assert ended.value.value.status == health_pb2.HealthCheckResponse.SERVING
        for each in waiting:
            each.cancel()
        await caller.engine.until(0)


@pytest.mark.check("R21")
async def test_a_deadline_reaches_the_engine_with_the_queue_timeout() -> None:
    async with calling(FakeEngine(saying(65), manual=True), queue_timeout_s=1000.0) as caller:
        patient, hasty, several = (inference_pb2.GenerationSpec(text="hi") for _ in range(3))
        patient.scheduling.queue_timeout.seconds = 3000
        several.sampling.n = 2
        calls = []
        for number, (spec, timeout) in enumerate(
            [(SPEC, None), (SPEC, 300), (patient, None), (patient, 5000), (hasty, 100), (several, 100)], 1
        ):
            calls.append(caller.stream(spec, timeout=timeout))
            await caller.engine.until_submitted(number)
        await caller.engine.until_submitted(7)
        loop_s = asyncio.get_running_loop().time()
        rounded = [
            None if one.deadline_s is None else round((one.deadline_s - loop_s) / 100) * 100
            for one in caller.engine.requests
        ]
        assert rounded == [1000, 300, 3000, 3000, 100, 100, 100]
        for call in calls:
            call.cancel()
        await caller.engine.until(0)


@pytest.mark.check("R21")
async def test_the_servers_queue_timeout_is_for_those_who_say_nothing() -> None:
    async with calling(FakeEngine(saying(65), manual=True), queue_timeout_s=0.05) as caller:
        assert await reason_of(caller.stream(SPEC)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "QUEUE_TIMEOUT")
        patient = inference_pb2.GenerationSpec(text="hi", stopping=inference_pb2.Stopping(max_tokens=1))
        patient.scheduling.queue_timeout.seconds = 1000
        call = caller.stream(patient)
        await caller.engine.until(1)
        caller.engine.step()
        assert [event.WhichOneof("event") async for event in call][-1] == "finished"


@pytest.mark.check("R21")
async def test_what_the_engine_gives_up_is_a_passed_deadline() -> None:
    async with calling(FakeEngine(saying(65), manual=True)) as caller:
        call = caller.stream(SPEC)
        await caller.engine.until(1)
        caller.engine.finish(caller.engine.requests[0].request_id, FinishReason.EXPIRED)
        assert await reason_of(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "QUEUE_TIMEOUT")


async def reason_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    return raised.value.code(), details_of(raised.value)["ErrorInfo"].reason

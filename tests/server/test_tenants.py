"""Tenants have shares of the queue and of the engine, and limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest
from calls import Caller, calling, details_of, status_of
from fakes import FakeEngine, saying
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.v1 import inference_pb2
from server.tenants import Tenants
from server.waiting_room import Ticket, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.rpc import Call

SPEC = inference_pb2.GenerationSpec(text="hi")
NAMES = ("flood", "light", "vip")
KEYS = KeyRing([parse_key(f"{name}:key-of-{name}") for name in NAMES])


def shows(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer key-of-{name}")]


@contextlib.asynccontextmanager
async def house(**settings: Any) -> AsyncIterator[Caller]:
    """A server whose engine begins nothing by itself."""
    async with calling(FakeEngine(saying(1), manual=True), keys=KEYS, **settings) as caller:
        yield caller


class TenantOnly:
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant


def try_to_enter(room: WaitingRoom, tenant: str) -> Ticket | None:
    ticket = Ticket(cast("Call", TenantOnly(tenant)), room)
    if room.is_full:
        displaced = room.last_beyond_share(tenant)
        if displaced is None:
            return None
        displaced.stop_waiting()
    room.enter(ticket)
    return ticket


@settings(derandomize=True, deadline=None)
@given(
    size=st.integers(0, 12),
    arrivals=st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=80),
    weights=st.fixed_dictionaries({"a": st.sampled_from([0.5, 1.0, 4.0])}),
)
def test_a_full_room_is_divided_by_weight(size: int, arrivals: list[str], weights: dict[str, float]) -> None:
    """Whoever came often enough has a share, to within one place; and nobody displaces back and forth."""
    tenants = Tenants(weights=weights)
    room = WaitingRoom(size, tenants.weight)
    inside: list[Ticket] = []
    for tenant in arrivals:
        before = Counter(ticket.call.tenant for ticket in inside)
        ticket = try_to_enter(room, tenant)
        inside = [one for one in (*inside, ticket) if one is not None and one.waits]
        counts = Counter(one.call.tenant for one in inside)
        assert len(room) == counts.total() <= size
        if ticket is None:
            assert before.total() == size
            own = (before[tenant] + 1) / tenants.weight(tenant)
            assert all((num - 1) / tenants.weight(name) < own for name, num in before.items())
        elif before.total() == size:
            (loser,) = before - counts
            assert counts[loser] / tenants.weight(loser) >= counts[tenant] / tenants.weight(tenant)


def test_the_newest_leaves_first() -> None:
    room = WaitingRoom(4, Tenants().weight)
    flood = [try_to_enter(room, "flood") for _ in range(4)]
    assert [try_to_enter(room, "light") is not None for _ in range(3)] == [True, True, False]
    assert [ticket is not None and ticket.waits for ticket in flood] == [True, True, False, False]


@pytest.mark.check("R18")
async def test_a_flood_does_not_keep_others_out_of_a_full_queue() -> None:
    async with house(max_queued_requests=4) as caller:
        flood = [caller.stream(SPEC, metadata=shows("flood")) for _ in range(4)]
        await caller.engine.until(4)
        reads = [asyncio.ensure_future(call.read()) for call in flood]
        light = [caller.stream(SPEC, metadata=shows("light")) for _ in range(2)]
        for error in await refusals(reads, 2):
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details_of(error)["ErrorInfo"].reason == "QUEUE_FULL"
            assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        assert details_of(await status_of(caller.stream(SPEC, metadata=shows("light"))))["RetryInfo"]
        await caller.engine.until_submitted(6)
        caller.engine.admit()
        for started in (*(read for read in reads if not read.done()), *(call.read() for call in light)):
            assert (await started).HasField("started")
        for call in (*flood, *light):
            call.cancel()
        await caller.engine.until(0)


async def refusals(reads: list[asyncio.Future[Any]], count: int) -> list[grpc.aio.AioRpcError]:
    """Wait until so many of them have failed."""
    failed: list[grpc.aio.AioRpcError] = []
    pending = set(reads)
    while len(failed) < count:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        failed += [cast("grpc.aio.AioRpcError", read.exception()) for read in done]
    return failed


async def test_limits_are_common_or_of_one_tenant() -> None:
    tenants = Tenants(max_requests=1, max_requests_of={"vip": 2})
    async with house(tenants=tenants) as caller:
        calls = [caller.stream(SPEC, metadata=shows(name)) for name in ("light", "vip", "vip")]
        await caller.engine.until(3)
        for name in ("light", "vip"):
            error = await status_of(caller.stream(SPEC, metadata=shows(name)))
            assert details_of(error)["ErrorInfo"].reason == "TENANT_LIMIT"
        for call in calls:
            call.cancel()
        await caller.engine.until(0)


async def test_the_engine_hears_of_tenants_and_weights() -> None:
    async with house(tenants=Tenants(weights={"vip": 4.0})) as caller:
        calls = [caller.stream(SPEC, metadata=shows(name)) for name in ("vip", "light")]
        await caller.engine.until(2)
        assert {(one.tenant, one.weight) for one in caller.engine.requests} == {("vip", 4.0), ("light", 1.0)}
        for call in calls:
            call.cancel()
        await caller.engine.until(0)


async def test_nothing_is_kept_of_tenants_that_have_gone() -> None:
    async with house() as caller:
        for name in NAMES:
            call = caller.stream(SPEC, metadata=shows(name))
            await caller.engine.until(1)
            call.cancel()
            await caller.engine.until(0)
        await caller.server.services.admission.drain(20, AssertionError())
        admission = caller.server.services.admission
        assert not admission._num_live
        assert not admission._room._tickets

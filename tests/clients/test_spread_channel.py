"""More calls at once than one connection carries."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from fakes import FakeEngine, serve

from pagewire import AsyncClient
from pagewire.channel import CHANNEL_OPTIONS
from pagewire.health import CHECK_METHOD, check_request, is_serving
from pagewire.spread_channel import CALLS_PER_CONNECTION, SpreadChannel
from server.listeners import OPTIONS

pytestmark = pytest.mark.check("S18")


def test_the_server_takes_what_the_client_sends() -> None:
    assert OPTIONS["grpc.max_concurrent_streams"] > CALLS_PER_CONNECTION


async def test_no_call_waits_for_another_one_to_end() -> None:
    engine = FakeEngine(manual=True)
    num_calls = 2 * CALLS_PER_CONNECTION + 1
    async with serve(engine, max_queued_requests=num_calls) as server, AsyncClient(server.target) as client:
        streams = [client.stream("hi") for _ in range(num_calls)]
        await engine.until(num_live=num_calls)
        assert await client.is_ready()
        await asyncio.gather(*(stream.aclose() for stream in streams))
        await engine.until(num_live=0)


async def test_a_connection_has_room_again_when_its_calls_have_ended() -> None:
    async with serve(FakeEngine()) as server:
        channel = SpreadChannel(server.target, CHANNEL_OPTIONS)
        check = channel.unary_unary(CHECK_METHOD)
        for _ in range(2):
            calls = [check(check_request("")) for _ in range(CALLS_PER_CONNECTION + 1)]
            assert all(map(is_serving, await asyncio.gather(*calls)))
            assert channel.num_connections == 2
        await channel.close()


async def test_calls_over_a_closed_channel_are_cancelled() -> None:
    engine = FakeEngine(manual=True)
    async with serve(engine, max_queued_requests=1000) as server:
        client = AsyncClient(server.target)
        streams = [client.stream("hi") for _ in range(CALLS_PER_CONNECTION + 1)]
        await engine.until(num_live=len(streams))
        await client.close()
        await engine.until(num_live=0)


async def test_the_health_of_a_server_that_is_not_there() -> None:
    channel = SpreadChannel("127.0.0.1:1", CHANNEL_OPTIONS)
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary(CHECK_METHOD)(check_request(""))
    await channel.close()

"""The engine dies or freezes while calls of every kind are open."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from fake_house import FakeHouse
from figures import show
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_calls import all_kinds, grpc_unary, http_stream
from processes import descendants, is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_CALLS = 64
NUM_KILLS = 3
TIMEOUT_S = 100.0


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    with FakeHouse(tmp_path_factory.mktemp("house")) as house:
        yield house


@dataclass(frozen=True)
class Times:
    """How long it took after the signal, in seconds."""

    not_ready_s: float
    """Until HTTP said that it was not ready."""
    ended_s: float
    """Until the last call had ended."""
    served_s: float
    """From when the next engine could load until it served."""

    def shown(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in asdict(self).items()}


async def break_engine(house: FakeHouse, number: signal.Signals) -> Times:
    """Open calls, send the engine a signal, and look at what everybody is told until there is a new one."""
    hold = house.model / "hold"
    async with (
        grpc.aio.insecure_channel(house.target) as channel,
        httpx.AsyncClient(base_url=house.base_url, timeout=TIMEOUT_S, limits=httpx.Limits()) as client,
    ):
        calls = [asyncio.create_task(call) for call in all_kinds(channel, client, NUM_CALLS)]
        await asyncio.to_thread(house.wait_until_running, NUM_CALLS)
        pid, num_restarts = house.engine_pid(), house.stats().num_engine_restarts
        others = set(descendants(house.server.pid)) - {pid}
        hold.touch()  # the next engine is not ready before we have looked
        os.kill(pid, number)
        broken_s = time.monotonic()
        noticing = asyncio.create_task(until_not_ready(client))
        ends = await asyncio.gather(*calls)
        ended_s = time.monotonic()
        not_ready_s = await noticing
        assert all(end.is_lost for end in ends), ends
        await look_at_health(channel, client)
        hold.unlink()
        may_load_s = time.monotonic()
        await asyncio.to_thread(house.wait_until_ready)
        await asyncio.to_thread(house.wait_until_served)
        served_s = time.monotonic()
        assert (await grpc_unary(channel, 5)).num_tokens == 5
        assert (await http_stream(client, "/v1/chat/completions", 5)).has_good_end
    assert house.stats().num_engine_restarts == num_restarts + 1
    assert not is_alive(pid)
    assert set(descendants(house.server.pid)) == others | {house.engine_pid()}
    house.wait_until_idle()
    return Times(not_ready_s - broken_s, ended_s - broken_s, served_s - may_load_s)


async def until_not_ready(client: httpx.AsyncClient) -> float:
    """Return when HTTP says so."""
    while (await client.get("/health/ready")).status_code == 200:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)
    return time.monotonic()


async def longest_times(house: FakeHouse, number: signal.Signals, num_rounds: int) -> Times:
    """Of several rounds."""
    rounds = [astuple(await break_engine(house, number)) for _ in range(num_rounds)]
    return Times(*map(max, zip(*rounds, strict=True)))


async def look_at_health(channel: grpc.aio.Channel, client: httpx.AsyncClient) -> None:
    """Both doors say that nothing can be served, and why."""
    check: Any = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert (await check).status == health_pb2.HealthCheckResponse.NOT_SERVING
    said = dict(await check.trailing_metadata())["pagewire-not-ready-reason"]
    ready = await client.get("/health/ready")
    assert ready.status_code == 503
    message = ready.json()["error"]["message"]
    for text in (said, message):
        assert text.startswith("the engine")
        assert text.endswith("is being started again")
    assert (await client.get("/health/live")).status_code == 200
    refused = await http_stream(client, "/v1/chat/completions", 5)
    assert (refused.status, refused.error) == ("503", "not_ready")


@pytest.mark.check("R01", "R05")
@pytest.mark.parametrize("round_number", range(NUM_KILLS))
async def test_a_killed_engine_ends_every_call_with_an_error_and_comes_back(
    fake_house: FakeHouse, round_number: int
) -> None:
    await break_engine(fake_house, signal.SIGKILL)


@pytest.mark.check("R02")
async def test_a_frozen_engine_ends_every_call_with_an_error_and_is_replaced(fake_house: FakeHouse) -> None:
    await break_engine(fake_house, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.check("R01")
@pytest.mark.timeout(600)
async def test_a_killed_engine_twenty_times(fake_house: FakeHouse) -> None:
    longest = await longest_times(fake_house, signal.SIGKILL, 20)
    show("R01", **longest.shown())
    assert longest.not_ready_s < 1
    assert longest.ended_s < 2
    assert longest.served_s < 5


@pytest.mark.slow
@pytest.mark.check("R02")
@pytest.mark.timeout(600)
async def test_a_frozen_engine_is_noticed_in_time(fake_house: FakeHouse) -> None:
    longest = await longest_times(fake_house, signal.SIGSTOP, 5)
    show("R02", **longest.shown())
    assert longest.not_ready_s < 5
    assert longest.ended_s < 6

"""How soon it is over: calls that are left, deadlines that pass, a server that is told to end."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from calls import details_of, status_of
from fake_house import NUM_SEQS, FakeHouse
from figures import in_ms, percentile, show
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_calls import all_kinds, body, grpc_stream, http_unary, spec

from pagewire.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NUM_LEAVING = 100
NUM_STREAMS = 32
NUM_TOKENS = 300
"""Of streams that are open when the server is told to end: six seconds of the fake engine."""
TIMEOUT_S = 100.0
DEADLINES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
MAX_FREEING_S = 0.1
MAX_OFF_S = 0.05
MIN_REFUSING_S = 5.0
MAX_EXIT_S = 1.0
MAX_SECOND_EXIT_S = 2.0


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    house = FakeHouse(tmp_path_factory.mktemp("house"), drain_timeout_s=TIMEOUT_S)
    with house:
        yield house


@pytest.fixture
async def channel(fake_house: FakeHouse) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(fake_house.target) as channel:
        yield channel


@pytest.fixture
async def client(fake_house: FakeHouse) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits()
    async with httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S, limits=limits) as client:
        await client.get("/health/live")  # the client's own first call takes it tens of milliseconds
        yield client


async def until_running(house: FakeHouse, num_running: int) -> float:
    """Return when so many sequences ran, and held blocks, or nothing did."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{house.admin_port}") as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        while True:
            engine = (await stub.GetStats(admin_pb2.GetStatsRequest())).engine
            if engine.num_running == num_running and (engine.num_owned_blocks > 0) == (num_running > 0):
                return time.monotonic()
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "door",
    [
        pytest.param("gRPC", marks=pytest.mark.check("R06")),
        pytest.param("HTTP", marks=pytest.mark.check("R07")),
    ],
)
async def test_what_is_left_is_free(
    door: str, fake_house: FakeHouse, channel: grpc.aio.Channel, client: httpx.AsyncClient
) -> None:
    """Scenario: a caller leaves a stream (gRPC) or a whole answer (HTTP) at a random moment. Result: the time
    until the engine holds nothing of it."""
    dice = random.Random(door)
    freeing_s = []
    for _ in range(NUM_LEAVING):
        kind = grpc_stream(channel) if door == "gRPC" else http_unary(client, "/v1/completions")
        call = asyncio.create_task(kind)
        await until_running(fake_house, 1)
        await asyncio.sleep(dice.random() * 0.2)
        left_s = time.monotonic()
        call.cancel()
        freeing_s.append(await until_running(fake_house, 0) - left_s)
        await asyncio.gather(call, return_exceptions=True)
    show("R06" if door == "gRPC" else "R07", door=door, freed_ms=in_ms(freeing_s))
    assert percentile(freeing_s, 0.99) <= MAX_FREEING_S


@pytest.mark.check("R21")
@pytest.mark.parametrize("where", ["gRPC", "HTTP", "queue"])
async def test_deadlines_hold(
    where: str, fake_house: FakeHouse, channel: grpc.aio.Channel, client: httpx.AsyncClient
) -> None:
    """Scenario: calls without an end have deadlines, of gRPC, of HTTP, or of their wait in the queue of an
    engine that has no row free. Result: how far from its deadline each ended."""
    filling = [asyncio.create_task(grpc_stream(channel)) for _ in range(NUM_SEQS if where == "queue" else 0)]
    if filling:
        await until_running(fake_house, NUM_SEQS)
    ways = {"gRPC": _off_by_grpc, "HTTP": _off_by_http, "queue": _off_in_queue}
    off_s = []
    for deadline_s in DEADLINES_S:
        off_s += await asyncio.gather(*(ways[where](channel, client, deadline_s) for _ in range(5)))
    for call in filling:
        call.cancel()
    await asyncio.gather(*filling, return_exceptions=True)
    await until_running(fake_house, 0)
    show("R21", where=where, off_ms=in_ms(off_s), earliest_ms=round(1000 * min(off_s), 2))
    assert max(map(abs, off_s)) <= MAX_OFF_S


async def _off_by_grpc(channel: grpc.aio.Channel, _: httpx.AsyncClient, deadline_s: float) -> float:
    began_s = time.monotonic()
    end = await grpc_stream(channel, timeout=deadline_s)
    assert end.status == "DEADLINE_EXCEEDED"
    return time.monotonic() - began_s - deadline_s


async def _off_by_http(_: grpc.aio.Channel, client: httpx.AsyncClient, deadline_s: float) -> float:
    began_s = time.monotonic()
    response = await client.post(
        "/v1/completions",
        json=body("/v1/completions", 4000, stream=False),
        headers={"X-Request-Timeout": str(deadline_s)},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    return time.monotonic() - began_s - deadline_s


async def _off_in_queue(channel: grpc.aio.Channel, _: httpx.AsyncClient, deadline_s: float) -> float:
    waiting = spec(5)
    waiting.scheduling.queue_timeout.FromNanoseconds(round(1e9 * deadline_s))
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    began_s = time.monotonic()
    error = await status_of(stub.Generate(inference_pb2.GenerateRequest(spec=waiting)))
    assert details_of(error)["ErrorInfo"].reason == "QUEUE_TIMEOUT"
    return time.monotonic() - began_s - deadline_s


@pytest.mark.check("R12")
async def test_a_drain_refuses_for_seconds_and_ends_at_once(
    fake_house: FakeHouse, channel: grpc.aio.Channel, client: httpx.AsyncClient
) -> None:
    """Scenario: SIGTERM while streams run that take six seconds. Result: when health said so, for how long
    new calls were refused with a time to come back, when the process had ended after the last stream."""
    calls = [asyncio.create_task(call) for call in all_kinds(channel, client, NUM_STREAMS, NUM_TOKENS)]
    await until_running(fake_house, NUM_STREAMS)
    watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    told_s = time.monotonic()
    fake_house.server.send_signal(signal.SIGTERM)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    not_ready_s = time.monotonic() - told_s
    refusing = asyncio.create_task(_refuse_until_closed(fake_house.target))
    ends = await asyncio.gather(*calls)
    last_s = time.monotonic()
    assert await asyncio.to_thread(fake_house.server.wait, TIMEOUT_S) == 0
    exit_s = time.monotonic() - last_s
    num_refused, closed_s = await refusing
    assert all(end.has_good_end and not end.error for end in ends), ends
    show(
        "R12",
        finished=len(ends),
        not_ready_ms=round(1000 * not_ready_s, 1),
        refused=num_refused,
        refusing_s=round(closed_s - told_s, 2),
        exit_s=round(exit_s, 3),
    )
    assert closed_s - told_s >= MIN_REFUSING_S
    assert exit_s <= MAX_EXIT_S


async def _refuse_until_closed(target: str) -> tuple[int, float]:
    """Call again and again, each time by a new connection; returns how many were refused, and until when."""
    num_refused, last_s = 0, 0.0
    options = (("grpc.use_local_subchannel_pool", 1),)
    while True:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            error = await status_of(stub.Generate(inference_pb2.GenerateRequest(spec=spec(5))))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        if "grpc-retry-pushback-ms" not in dict(error.trailing_metadata() or ()):
            return num_refused, last_s
        num_refused, last_s = num_refused + 1, time.monotonic()
        await asyncio.sleep(0.05)


@pytest.mark.check("R12")
async def test_a_second_signal_ends_within_two_seconds(fake_house: FakeHouse) -> None:
    if fake_house.server.poll() is not None:
        fake_house.start_server()
    await asyncio.to_thread(fake_house.wait_until_ready)
    await asyncio.to_thread(fake_house.wait_until_served)
    async with (
        grpc.aio.insecure_channel(fake_house.target) as channel,
        httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S) as client,
    ):
        calls = [asyncio.create_task(call) for call in all_kinds(channel, client, NUM_STREAMS)]
        await until_running(fake_house, NUM_STREAMS)
        fake_house.server.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert fake_house.server.poll() is None
        told_s = time.monotonic()
        fake_house.server.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(fake_house.server.wait, TIMEOUT_S) == 0
        exit_s = time.monotonic() - told_s
        ends = await asyncio.gather(*calls)
    assert not any(end.has_good_end for end in ends)
    show("R12", after="a second signal", exit_s=round(exit_s, 3))
    assert exit_s <= MAX_SECOND_EXIT_S

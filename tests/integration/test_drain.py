"""Both processes are told to end while calls of every kind are open: nothing and nobody is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from calls import details_of, status_of
from fake_house import FakeHouse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_calls import End, all_kinds, grpc_stream, http_stream, spec
from processes import wait_until

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NUM_CALLS = 32
NUM_TOKENS = 60
TIMEOUT_S = 100.0

pytestmark = pytest.mark.check("R12")


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    house = FakeHouse(
        tmp_path_factory.mktemp("house"), [f"--drain-timeout={TIMEOUT_S}"], drain_timeout_s=TIMEOUT_S
    )
    with house:
        yield house


@contextlib.asynccontextmanager
async def clients(house: FakeHouse) -> AsyncIterator[tuple[grpc.aio.Channel, httpx.AsyncClient]]:
    async with (
        grpc.aio.insecure_channel(house.target) as channel,
        httpx.AsyncClient(base_url=house.base_url, timeout=TIMEOUT_S) as client,
    ):
        yield channel, client


async def check_refused_by_server(channel: grpc.aio.Channel, client: httpx.AsyncClient) -> None:
    """The listener still answers, with a status that says when to come again."""
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    error = await status_of(stub.Generate(inference_pb2.GenerateRequest(spec=spec(5))))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    assert details_of(error)["RetryInfo"].retry_delay.seconds == 1
    refused = await client.post("/v1/completions", json={"model": "tiny-model", "prompt": "hi"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"].startswith("the server is draining")


async def check_refused_by_translator(house: FakeHouse, client: httpx.AsyncClient) -> None:
    def is_refusing() -> bool:
        return httpx.get(f"{house.base_url}/health/ready", timeout=TIMEOUT_S).status_code == 503

    await asyncio.to_thread(wait_until, is_refusing, "the translator is not ready", TIMEOUT_S)
    refused = await client.post("/v1/completions", json={"model": "tiny-model", "prompt": "hi"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "shutting_down"
    assert (await client.get("/health/live")).status_code == 200


def until_all_have_begun(house: FakeHouse, num_calls: int) -> None:
    def begun() -> bool:
        engine = house.stats().engine
        return engine.num_running + engine.num_finished == num_calls

    wait_until(begun, "all calls have begun", TIMEOUT_S)


async def test_a_drain_loses_nothing(fake_house: FakeHouse) -> None:
    """Scenario: server and translator are told to end; one endless call keeps the drain going until it has
    been looked at. Result: not ready first, new calls refused, all the others complete, exit codes 0."""
    async with clients(fake_house) as (channel, client):
        watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        endless = [asyncio.create_task(grpc_stream(channel)), asyncio.create_task(grpc_stream(channel))]
        endless.append(asyncio.create_task(http_stream(client, "/v1/completions")))
        calls = [asyncio.create_task(call) for call in all_kinds(channel, client, NUM_CALLS, NUM_TOKENS)]
        await asyncio.to_thread(until_all_have_begun, fake_house, len(calls) + len(endless))
        fake_house.server.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await check_refused_by_server(channel, client)
        fake_house.translator.send_signal(signal.SIGTERM)
        await check_refused_by_translator(fake_house, client)
        ends = await asyncio.gather(*calls)
        for call in endless:
            call.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
    complete = [end for end in ends if not end.error and end.has_good_end]
    assert len(complete) == NUM_CALLS, [end for end in ends if end not in complete]
    assert all(end.num_tokens == NUM_TOKENS for end in complete if end.kind.startswith("gRPC"))
    assert await asyncio.to_thread(fake_house.server.wait, TIMEOUT_S) == 0
    assert await asyncio.to_thread(fake_house.translator.wait, TIMEOUT_S) == 0


@pytest.mark.parametrize("how", ["grace over", "second signal"])
async def test_what_outlasts_the_drain_gets_a_typed_error(fake_house: FakeHouse, how: str) -> None:
    fake_house.start_server(drain_timeout_s=0.2 if how == "grace over" else TIMEOUT_S)
    if fake_house.translator.poll() is not None:
        fake_house.start_translator()
    await asyncio.to_thread(fake_house.wait_until_ready)
    await asyncio.to_thread(fake_house.wait_until_served)
    async with clients(fake_house) as (channel, client):
        calls = [asyncio.create_task(call) for call in all_kinds(channel, client, NUM_CALLS)]
        await asyncio.to_thread(fake_house.wait_until_running, NUM_CALLS)
        fake_house.server.send_signal(signal.SIGTERM)
        if how == "second signal":
            await until_draining(channel)
            fake_house.server.send_signal(signal.SIGTERM)
        ends = await asyncio.gather(*calls)
    assert all(is_told(end) for end in ends), ends
    assert await asyncio.to_thread(fake_house.server.wait, TIMEOUT_S) == 0


async def test_a_second_signal_ends_the_translator_at_once(fake_house: FakeHouse) -> None:
    if fake_house.server.poll() is not None:
        fake_house.start_server()
        await asyncio.to_thread(fake_house.wait_until_ready)
    await asyncio.to_thread(fake_house.wait_until_served)
    async with clients(fake_house) as (_, client):
        call = asyncio.create_task(http_stream(client, "/v1/completions"))
        await asyncio.to_thread(fake_house.wait_until_running, 1)
        fake_house.translator.send_signal(signal.SIGTERM)
        await check_refused_by_translator(fake_house, client)
        fake_house.translator.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(fake_house.translator.wait, TIMEOUT_S) == 0
        (end,) = await asyncio.gather(call, return_exceptions=True)
        assert isinstance(end, httpx.TransportError) or (isinstance(end, End) and not end.has_good_end)
    await asyncio.to_thread(fake_house.wait_until_idle)


async def until_draining(channel: grpc.aio.Channel) -> None:
    watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass


def is_told(end: End) -> bool:
    """Whether the caller knows that its call was lost to a drain."""
    errors = {"REQUEST_LOST", "request_lost", "overloaded_error", "server_error"}
    return end.error in errors and not end.has_good_end

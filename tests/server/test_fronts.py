"""Several processes speak gRPC for the server; whichever one a caller is with, it notices none of that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from calls import calling, details_of, status_of
from certificates import Authority, authority
from fakes import END_ID, FakeEngine, saying, serve
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from processes import wait_until

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import AccessDeniedError, AsyncClient, UnavailableError
from pagewire.channel import tls_credentials
from pagewire.v1 import inference_pb2, models_pb2
from server.fronts import Fronts
from server.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fakes import FakeServer

INFERENCE, MODELS = "/pagewire.v1.InferenceService", "/pagewire.v1.ModelService"
HEALTH_CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
TIMEOUT_S = 60.0
MAX_CONNECTIONS = 100
KEYS = KeyRing([parse_key("a:secret-a"), parse_key("b:secret-b")])


def asked_of(text: str = "hi", **fields: Any) -> bytes:
    fields = {"sampling": inference_pb2.Sampling(seed=1)} | fields
    return inference_pb2.GenerateRequest(
        spec=inference_pb2.GenerationSpec(text=text, **fields)
    ).SerializeToString()


ASKED: dict[str, tuple[str, bytes]] = {
    "unary": (f"{INFERENCE}/Generate", asked_of()),
    "stream": (f"{INFERENCE}/StreamGenerate", asked_of()),
    "embed": (f"{INFERENCE}/Embed", inference_pb2.EmbedRequest().SerializeToString()),
    "models": (f"{MODELS}/ListModels", b""),
    "tokens": (f"{MODELS}/Tokenize", models_pb2.TokenizeRequest(text="hi").SerializeToString()),
    "refused field": (
        f"{INFERENCE}/StreamGenerate",
        asked_of(sampling=inference_pb2.Sampling(temperature=-1)),
    ),
    "unknown model": (f"{INFERENCE}/Generate", asked_of(model="nobody's")),
    "too long": (f"{INFERENCE}/Generate", asked_of(text="long " * 700_000)),
    "too large": (f"{INFERENCE}/Generate", bytes(1 << 23)),
    "no message": (f"{INFERENCE}/Generate", b"\xff\xff"),
    "no method": (f"{INFERENCE}/Tomorrow", b""),
    "operators' method": ("/pagewire.v1.AdminService/GetStats", b""),
    "health": (HEALTH_CHECK, b""),
    "health of nobody": (HEALTH_CHECK, health_pb2.HealthCheckRequest(service="nobody").SerializeToString()),
}


async def answers(num_fronts: int) -> dict[str, list[object]]:
    """All that callers see: messages, the status and the metadata."""
    seen: dict[str, list[object]] = {}
    async with calling(FakeEngine(saying(65, 66, END_ID)), num_fronts=num_fronts) as caller:
        for name, (method, request) in ASKED.items():
            start: Any = caller.channel.unary_stream(method)
            call = start(request, metadata=[("x-request-id", "mine")], timeout=TIMEOUT_S)
            messages: list[bytes] = []
            with contextlib.suppress(grpc.aio.AioRpcError):
                messages.extend([message async for message in call])
            seen[name] = [
                comparable(method, messages),
                await call.code(),
                await call.details(),
                sorted(await call.trailing_metadata()),
            ]
    return seen


def comparable(method: str, messages: list[bytes]) -> object:
    """Without times. A stream's tokens come together as they may."""
    if method.endswith("/StreamGenerate"):
        events = [inference_pb2.StreamGenerateResponse.FromString(message) for message in messages]
        return "".join(choice.text for event in events for choice in event.delta.choices)
    if method.endswith("/Generate") and messages:
        return inference_pb2.GenerateResponse.FromString(messages[0]).choices[0]
    return messages


async def test_answers_and_errors_are_those_of_a_server_without_fronts() -> None:
    plain, fronts = await answers(0), await answers(2)
    for name in ASKED:
        assert fronts[name] == plain[name], name
    codes = {name: seen[1] for name, seen in plain.items()}
    assert codes["stream"] is codes["health"] is grpc.StatusCode.OK
    assert codes["too large"] is grpc.StatusCode.RESOURCE_EXHAUSTED


def links(server: FakeServer) -> list[Any]:
    assert isinstance(server.public, Fronts)
    return list(server.public._links.values())


async def connect(stack: contextlib.AsyncExitStack, server: FakeServer) -> list[grpc.aio.Channel]:
    """A connection to each front, in their order."""
    found: dict[int, grpc.aio.Channel] = {}
    for _ in range(MAX_CONNECTIONS):
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)])
        )
        found.setdefault(await place_of(channel, server), channel)
        if len(found) == len(links(server)):
            return [found[place] for place in sorted(found)]
    raise AssertionError(f"of {MAX_CONNECTIONS} connections, none went to some front: {sorted(found)}")


async def place_of(channel: grpc.aio.Channel, server: FakeServer) -> int:
    """The place of the front that has this connection, which a call that stays tells."""
    before = [set(link._calls) for link in links(server)]
    watch: Any = channel.unary_stream(HEALTH_WATCH)
    call = watch(b"")
    await call.read()
    (place,) = [place for place, link in enumerate(links(server)) if set(link._calls) - before[place]]
    call.cancel()
    await until(lambda: [set(link._calls) for link in links(server)] == before)
    return place


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, "what the test waits for", TIMEOUT_S)


def stream(channel: grpc.aio.Channel, secret: str = "", **call: Any) -> Any:
    start: Any = channel.unary_stream(
        f"{INFERENCE}/StreamGenerate",
        response_deserializer=inference_pb2.StreamGenerateResponse.FromString,
    )
    return start(asked_of(), metadata=[("authorization", f"Bearer {secret}")], **call)


@contextlib.asynccontextmanager
async def endless(**settings: Any) -> AsyncIterator[tuple[FakeServer, list[grpc.aio.Channel]]]:
    """Two fronts of an engine that goes on until it is stopped, and a connection to each."""
    async with (
        serve(FakeEngine(saying(65), manual=True), num_fronts=2, **settings) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        yield server, await connect(stack, server)


async def test_who_leaves_frees_what_it_held() -> None:
    async with endless() as (server, channels):
        streams = [stream(channel) for channel in channels]
        await server.engine.until(num_live=2)
        streams[0].cancel()
        await server.engine.until(num_live=1)
        await channels[1].close()
        await server.engine.until(num_live=0)
        await until(lambda: server.services.admission.census() == (0, 0, 0))
        assert not any(link._calls for link in links(server))


async def test_deadlines_are_kept() -> None:
    async with endless() as (server, channels):
        error = await status_of(stream(channels[1], timeout=1.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await server.engine.until(num_live=0)


async def test_keys_and_limits_of_tenants_hold_over_all_fronts() -> None:
    async with endless(keys=KEYS, tenants=Tenants(max_requests=2)) as (server, channels):
        for channel in channels:
            assert (await status_of(stream(channel, "wrong"))).code() is grpc.StatusCode.UNAUTHENTICATED
        live = [stream(channel, "secret-a") for channel in channels]
        await server.engine.until(num_live=2)
        for channel in channels:
            assert (
                details_of(await status_of(stream(channel, "secret-a")))["ErrorInfo"].reason == "TENANT_LIMIT"
            )
        live.append(stream(channels[0], "secret-b"))
        await server.engine.until(num_live=3)
        for call in live:
            call.cancel()
        async with AsyncClient(server.target, api_key="wrong") as client:
            with pytest.raises(AccessDeniedError):
                await client.models()


@pytest.mark.check("R04")
async def test_a_killed_front_takes_its_own_callers_with_it_and_comes_back() -> None:
    async with endless() as (server, channels):
        lost, kept = (stream(channel) for channel in channels)
        await server.engine.until(num_live=2)
        server.engine.step()
        for call in (lost, kept):
            assert (await call.read()).HasField("started")
        dead = links(server)[0]
        os.kill(dead.pid, signal.SIGKILL)
        assert (await status_of(lost)).code() is grpc.StatusCode.UNAVAILABLE
        await server.engine.until(num_live=1)
        await until(lambda: sum(server.services.admission.census()) == 1)
        server.engine.step()
        assert (await kept.read()).delta.choices
        await until(lambda: links(server)[0] is not dead)
        await links(server)[0].listening()
        async with contextlib.AsyncExitStack() as stack:
            again = stream((await connect(stack, server))[0])
            await server.engine.until(num_live=2)
            again.cancel()
        kept.cancel()
        await server.engine.until(num_live=0)
        await until(lambda: server.services.admission.census() == (0, 0, 0))


async def test_reflection_answers_through_a_front() -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=INFERENCE[1:]),
    ]
    async with (
        serve(FakeEngine(), num_fronts=2, reflects=True) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        services, file = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert INFERENCE[1:] in [each.name for each in services.list_services_response.service]
    assert file.file_descriptor_response.file_descriptor_proto


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path / "ours")


@pytest.mark.check("S08")
async def test_fronts_ask_for_certificates_and_show_new_ones(ours: Authority) -> None:
    files, client = ours.issue("server", authorities=ours.roots), ours.issue("client", "client")
    shown = (client.chain, client.key)
    async with serve(FakeEngine(), num_fronts=2, tls=files) as server:
        with pytest.raises(UnavailableError):
            await generate(server.target, tls_credentials(ours.roots))
        assert await generate(server.target, tls_credentials(ours.roots, *shown)) == "fake-model"
        host, _, port = server.target.rpartition(":")
        before = files.chain.read_text()
        ours.issue("server")
        await asyncio.to_thread(
            wait_until,
            lambda: ssl.get_server_certificate((host, int(port))) == files.chain.read_text() != before,
            "the new certificate is shown",
        )
        assert await generate(server.target, tls_credentials(ours.roots, *shown)) == "fake-model"


async def generate(target: str, credentials: grpc.ChannelCredentials) -> str:
    async with AsyncClient(target, credentials=credentials, timeout=TIMEOUT_S) as client:
        return (await client.generate("hi", max_tokens=1)).started.model

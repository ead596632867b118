"""Every gRPC method needs a key, except health: what is served now, and what will be served some day."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

import calls
import grpc
import grpc.aio
import hpack
import pytest
from fakes import FakeEngine, serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from http2_peer import Peer, call_headers, headers_frame, message_frame
from hyperframe.frame import HeadersFrame

from engine.config import EngineConfig
from gate.certificates import CertificateFiles
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire import AccessDeniedError, AsyncClient
from pagewire.v1 import admin_pb2, inference_pb2, models_pb2
from server.app import run, warn_if_open, warn_of_open_metrics
from server.config import ServerConfig
from server.services import ADMIN, HEALTH, INFERENCE, MODELS
from server.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fakes import FakeServer
    from google.protobuf.descriptor import MethodDescriptor
    from http2_peer import Header

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
FILES = (inference_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
METHODS = [
    method for file in FILES for service in file.services_by_name.values() for method in service.methods
]
PUBLIC = [method for method in METHODS if method.containing_service in (INFERENCE, MODELS)]
OPERATORS = [method for method in METHODS if method.containing_service is ADMIN]
NO_MESSAGE = b"\xff\xff\xff"
"""Bytes that no request type can be parsed from: who parses them answers INVALID_ARGUMENT."""
BAD_METADATA: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "wrong": (("authorization", "Bearer wrong"),),
    "prefix": (("authorization", "Bearer secret"),),
    "empty": (("authorization", ""),),
    "no key": (("authorization", "Bearer "),),
    "basic": (("authorization", "Basic secret-a"),),
    "bare": (("authorization", "secret-a"),),
    "another header": (("x-api-key", "secret-a"),),
    "twice": (("authorization", "Bearer secret-a"), ("authorization", "Bearer wrong")),
    "operator's": (("authorization", "Bearer secret-admin"),),
}


def keyed(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


@contextlib.asynccontextmanager
async def guarded(engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[FakeServer]:
    """A server with keys of two tenants, and another for operators."""
    keys = KeyRing([parse_key("a:secret-a"), parse_key("a:second-a"), parse_key("b:secret-b")])
    admin_keys = KeyRing([parse_key("secret-admin")])
    async with serve(
        engine or FakeEngine(), keys=keys, admin_keys=admin_keys, reflects=True, **settings
    ) as server:
        yield server


async def code_of(target: str, method: str, metadata: Any, request: bytes = NO_MESSAGE) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(target) as channel:
        start: Any = channel.unary_unary(method)
        call = start(request, metadata=metadata, timeout=20)
        return grpc.StatusCode(await call.code())


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


@pytest.mark.check("S02")
@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
async def test_no_method_answers_without_a_key(metadata: Any) -> None:
    async with guarded() as server:
        for method in PUBLIC:
            assert await code_of(server.target, path_of(method), metadata) is UNAUTHENTICATED, method.name
        assert not server.engine.requests


async def test_who_shows_no_key_is_logged_by_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "server.gate")
    async with guarded() as server:
        await code_of(server.target, path_of(PUBLIC[0]), (*keyed("wrong"), ("x-request-id", "r1")))
    (record,) = caplog.records
    fields = vars(record)["fields"]
    peer = fields["peer"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", peer)
    expected = {"request_id": "r1", "peer": peer, "status": "UNAUTHENTICATED", "reason": "INVALID_API_KEY"}
    assert fields == expected
    assert record.getMessage() == f"r1 from {peer} refused: it shows no key that is in force"
    assert "wrong" not in str(vars(record))


@pytest.mark.check("S05")
async def test_no_operators_method_answers_to_a_tenants_key() -> None:
    async with guarded() as server:
        for method in OPERATORS:
            for target, expected in (
                (server.admin_target, UNAUTHENTICATED),
                (server.target, grpc.StatusCode.UNIMPLEMENTED),
            ):
                assert await code_of(target, path_of(method), keyed("secret-a")) is expected
            code = await code_of(server.admin_target, path_of(method), keyed("secret-admin"))
            assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.check("S02")
async def test_a_methods_request_is_parsed_once_its_key_is_known() -> None:
    async with guarded() as server:
        for method in PUBLIC:
            code = await code_of(server.target, path_of(method), keyed("secret-a"))
            assert code is grpc.StatusCode.INVALID_ARGUMENT, method.name


@pytest.mark.check("S02")
@pytest.mark.parametrize(
    "method",
    [
        "/pagewire.v1.InferenceService/Tomorrow",
        "/pagewire.v2.InferenceService/Generate",
        "/grpc.health.v1.Health2/Check",
        "/grpc.health.v1/Health/Check",
        "//grpc.health.v1.Health/Check",
        "/x/../grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/",
    ],
)
async def test_what_is_not_served_needs_a_key_too(method: str) -> None:
    async with guarded() as server:
        for target in (server.target, server.admin_target):
            assert await code_of(target, method, ()) is UNAUTHENTICATED


@pytest.mark.check("S02")
async def test_reflection_needs_a_key() -> None:
    async with guarded() as server, grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        assert (await calls.status_of(call)).code() is UNAUTHENTICATED
        call = stub.ServerReflectionInfo(iter([request]), metadata=keyed("secret-a"))
        assert [service.name for service in (await call.read()).list_services_response.service]
        call.cancel()


@pytest.mark.check("S05")
async def test_there_is_no_reflection_unless_it_is_asked_for() -> None:
    assert not ServerConfig(engine=EngineConfig(model_path="")).enable_reflection
    async with serve(FakeEngine(), keys=KeyRing([parse_key("secret")])) as server:
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            for target in (server.target, server.admin_target):
                code = await code_of(target, method, keyed("secret"))
                assert code in (grpc.StatusCode.UNIMPLEMENTED, UNAUTHENTICATED)


@pytest.mark.check("S02")
def test_every_method_of_the_contract_is_a_callers_or_an_operators() -> None:
    assert {method.full_name for method in METHODS} == {
        method.full_name for method in (*INFERENCE.methods, *MODELS.methods, *ADMIN.methods)
    }


@pytest.mark.check("S04")
@pytest.mark.parametrize("key", [b"\xfc\xff", "schlüssel".encode(), b"\x00", b"secret-a\x00", b"k" * 6000])
async def test_a_key_of_any_bytes_is_refused_and_no_more(key: bytes) -> None:
    headers = call_headers(path_of(PUBLIC[0]), ("authorization", b"Bearer " + key))
    async with guarded() as server:
        answer = await asyncio.to_thread(answer_to, int(server.target.rpartition(":")[2]), headers)
    assert answer["grpc-status"] == str(UNAUTHENTICATED.value[0])


@pytest.mark.check("S04")
async def test_a_key_of_a_megabyte_is_refused_before_it_is_looked_at() -> None:
    async with guarded() as server:
        code = await code_of(server.target, path_of(PUBLIC[0]), keyed("k" * (1 << 20)))
    assert code in (UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


def answer_to(port: int, headers: list[Header]) -> dict[str, str]:
    """The first headers of the answer to a call."""
    with Peer(port) as peer:
        peer.send(headers_frame(1, headers), message_frame(1))
        frame = peer.until(HeadersFrame)
        assert isinstance(frame, HeadersFrame)
        return {str(name): str(value) for name, value in hpack.Decoder().decode(frame.data)}


@pytest.mark.check("S02")
async def test_health_is_open_to_all() -> None:
    async with guarded() as server:
        for target in (server.target, server.admin_target):
            async with grpc.aio.insecure_channel(target) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
                assert (await stub.Watch(request).read()).status == health_pb2.HealthCheckResponse.SERVING
    assert {method.name for method in HEALTH.methods} == {"Check", "List", "Watch"}


@pytest.mark.check("S02")
async def test_a_refusal_says_why_and_under_which_id() -> None:
    async with guarded() as server, grpc.aio.insecure_channel(server.target) as channel:
        metadata = (*keyed("wröng".encode().hex()), ("x-request-id", "mine"))
        start: Any = channel.unary_stream(f"/{INFERENCE.full_name}/StreamGenerate")
        error = await calls.status_of(start(b"", metadata=metadata))
    assert error.details() == "the API key is missing or not valid"
    info = calls.details_of(error)["ErrorInfo"]
    assert (info.reason, info.domain, info.metadata["request_id"]) == ("INVALID_API_KEY", "pagewire", "mine")
    assert dict(error.trailing_metadata())["x-request-id"] == "mine"


async def test_the_client_takes_a_key() -> None:
    async with guarded() as server:
        async with AsyncClient(server.target, api_key="secret-b") as client:
            assert (await client.models())[0].name == "fake-model"
            assert await client.is_ready()
        async with AsyncClient(server.target, api_key="wrong") as client:
            with pytest.raises(AccessDeniedError) as raised:
                await client.generate("hi")
    assert raised.value.reason == "INVALID_API_KEY"


async def test_tenants_share_no_cached_prefixes_whatever_salt_they_give() -> None:
    engine = FakeEngine()
    async with guarded(engine) as server:
        for secret, salt in (
            ("secret-a", ""),
            ("second-a", ""),
            ("secret-b", ""),
            ("secret-b", "a"),
            ("secret-a", "b"),
        ):
            async with AsyncClient(server.target, api_key=secret) as client:
                await client.generate("hi", cache_salt=salt)
                await client.embed("hi", cache_salt=salt)
    salts = [request.cache_salt for request in engine.requests]
    assert salts == ["a/", "a/", "a/", "a/", "b/", "b/", "b/a", "b/a", "a/b", "a/b"]


async def test_a_salt_cannot_name_another_tenant() -> None:
    async with guarded() as server, AsyncClient(server.target, api_key="secret-b") as client:
        with pytest.raises(Exception, match="salt"):
            await client.generate("hi", cache_salt="a/")


async def test_a_tenant_has_so_many_live_requests_and_no_more() -> None:
    engine = FakeEngine(manual=True)
    async with (
        guarded(engine, tenants=Tenants(max_requests=2)) as server,
        AsyncClient(server.target, api_key="secret-a") as first,
        AsyncClient(server.target, api_key="second-a") as second,
        AsyncClient(server.target, api_key="secret-b") as other,
    ):
        streams = [client.stream("hi") for client in (first, second, other)]
        await engine.until(num_live=3)
        async with grpc.aio.insecure_channel(server.target) as channel:
            start: Any = channel.unary_unary(f"/{INFERENCE.full_name}/Generate")
            error = await calls.status_of(start(b"", metadata=keyed("secret-a")))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = calls.details_of(error)
        assert details["ErrorInfo"].reason == "TENANT_LIMIT"
        assert details["RetryInfo"].retry_delay.seconds == 1
        for stream in streams:
            await stream.aclose()


async def test_health_says_without_a_key_why_the_server_is_not_ready() -> None:
    engine = FakeEngine()
    async with guarded(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        engine.crash("the engine is starting again")
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Check(health_pb2.HealthCheckRequest())
        assert (await call).status == health_pb2.HealthCheckResponse.NOT_SERVING
        said = dict(await call.trailing_metadata())
        assert said["pagewire-not-ready-reason"] == "the engine is starting again"
        live = stub.Check(health_pb2.HealthCheckRequest(service="live"))
        assert (await live).status == health_pb2.HealthCheckResponse.SERVING
        assert "pagewire-not-ready-reason" not in dict(await live.trailing_metadata())
        statuses = (await stub.List(health_pb2.HealthListRequest())).statuses
        serving = health_pb2.HealthCheckResponse.SERVING
        assert {name for name, each in statuses.items() if each.status == serving} == {"live"}


def test_a_bad_file_of_keys_or_certificates_ends_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    engine = EngineConfig(model_path="")
    tls = CertificateFiles(empty, empty)
    assert run(ServerConfig(engine=engine, port=0, admin_port=0, api_key_file=empty)) == 2
    assert run(ServerConfig(engine=engine, port=0, admin_port=0, tls=tls)) == 2
    first, second = caplog.messages
    assert first == f"{empty}: expected at least one key"
    assert second.startswith(f"{empty}, {empty}: cannot be used")


@pytest.mark.parametrize(
    ("host", "keys", "is_warned"),
    [("127.0.0.1", (), False), ("0.0.0.0", ("a",), False), ("0.0.0.0", (), True), ("::", (), True)],
)
def test_an_open_door_wider_than_loopback_is_warned_of(
    host: str, keys: tuple[str, ...], is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_open(KeyRing([parse_key(key) for key in keys]), host, "--api-key")
    assert ("no key is set; see --api-key" in caplog.text) is is_warned


@pytest.mark.parametrize(("host", "is_warned"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_metrics_for_strangers_are_warned_of(
    host: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_open_metrics(host)
    assert ("may read the metrics" in caplog.text) is is_warned

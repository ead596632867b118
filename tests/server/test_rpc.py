"""Whatever a handler does, its caller gets a status of our table, and nothing of our internals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import calls
import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pagewire.v1 import inference_pb2
from server.errors import InvalidRequestError, NotFoundError, QueueFullError, Violation, status_of
from server.front_call import FrontCall
from server.front_messages import Opened
from server.listeners import PortError, bind, make_listener, reflection_handler
from server.rpc import Call, generic_handler
from server.services import INFERENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SECRET = "/etc/secret 0xdeadbeef"
STREAM, UNARY = "StreamGenerate", "Generate"


class Faulty:
    """A service that raises what it is told to, after so many messages."""

    def __init__(self, fault: BaseException | None = None, num_messages: int = 0) -> None:
        self.fault = fault
        self.num_messages = num_messages
        self.calls: asyncio.Queue[Call] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def generate(
        self, request: inference_pb2.GenerateRequest, call: Call
    ) -> inference_pb2.GenerateResponse:
        await self._run(call)
        return inference_pb2.GenerateResponse()

    async def stream_generate(self, request: inference_pb2.StreamGenerateRequest, call: Call) -> None:
        for _ in range(self.num_messages):
            await call.write(inference_pb2.StreamGenerateResponse())
        await self._run(call)

    async def embed(self, request: inference_pb2.EmbedRequest, call: Call) -> inference_pb2.EmbedResponse:
        await self._run(call)
        return inference_pb2.EmbedResponse()

    async def _run(self, call: Call) -> None:
        self.calls.put_nowait(call)
        call.on_end(self.ended.set)
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def serving(servicer: object) -> AsyncIterator[grpc.aio.Channel]:
    handler = generic_handler(INFERENCE, servicer)
    listener = make_listener([handler], max_message_bytes=1 << 20)
    port = bind(listener, "127.0.0.1", 0, "--port")
    await listener.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        # A call that has been answered ends by itself; to cancel it now would change what is logged of it.
        await listener.stop(0.5)


@pytest.mark.parametrize("timeout_s", [0.1, 1.2, 12.0, 600.0])
@pytest.mark.parametrize(("elapsed", "is_past"), [(1.0, True), (0.7, False)])
async def test_a_deadline_that_grpc_sent_longer_than_it_is_has_passed(
    timeout_s: float, elapsed: float, is_past: bool
) -> None:
    """1.2 s went as 1.24 s after a call with 1.234 s, and 12 s as 12.4 s after 12.34 s."""
    elapsed_s = elapsed * timeout_s
    deadline_s = time.monotonic() + timeout_s * 31 / 30 - elapsed_s
    context = FrontCall(Opened(0, "/a.Service/Method", (), "ipv4:127.0.0.1:1", deadline_s), lambda _: None)
    call = Call(context, write_timeout_s=1.0)
    call.arrived_s -= elapsed_s
    assert call.is_past_deadline == is_past


def start(channel: grpc.aio.Channel, method: str, request: bytes = b"", **settings: Any) -> Any:
    """A call in raw bytes."""
    name = f"/{INFERENCE.full_name}/{method}"
    make: Any = channel.unary_stream if method == STREAM else channel.unary_unary
    return make(name)(request, **settings)


FAULTS: list[Callable[[], BaseException]] = [
    asyncio.CancelledError,
    lambda: TimeoutError(SECRET),
    lambda: RuntimeError(SECRET),
    lambda: KeyError(SECRET),
    MemoryError,
    lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, SECRET),
    StopAsyncIteration,
    grpc.aio.AbortError,
]


@pytest.mark.check("R11", "S23")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault()).__name__)
@pytest.mark.parametrize(("method", "num_messages"), [(UNARY, 0), (STREAM, 0), (STREAM, 2)])
async def test_a_fault_is_internal_and_keeps_its_text(
    fault: Callable[[], BaseException], method: str, num_messages: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Faulty(fault(), num_messages)) as channel:
        call = start(channel, method, timeout=20, metadata=[("x-request-id", "my-id")])
        error = await calls.status_of(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "internal error; request id my-id"
        assert SECRET not in str(calls.details_of(error))
        assert dict(error.trailing_metadata())["x-request-id"] == "my-id"
    assert [record.levelno for record in caplog.records if record.name == "server.requests"] == [
        logging.ERROR
    ]


@pytest.mark.parametrize("method", [UNARY, STREAM])
async def test_a_call_ended_from_outside_gets_that_error(method: str) -> None:
    servicer = Faulty()
    async with serving(servicer) as channel:
        call = start(channel, method)
        reading = asyncio.create_task(calls.status_of(call))
        served = await servicer.calls.get()
        served.end(QueueFullError("first"))
        served.end(QueueFullError("second"))
        error = await reading
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "first")


@pytest.mark.parametrize("method", [UNARY, STREAM])
async def test_the_end_of_a_call_is_told_however_it_ends(method: str) -> None:
    servicer = Faulty()
    async with serving(servicer) as channel:
        call = start(channel, method, timeout=2.0)
        await calls.status_of(call)
        await servicer.ended.wait()


@pytest.mark.check("S20")
@pytest.mark.parametrize("method", [UNARY, STREAM])
@pytest.mark.parametrize("request_bytes", [b"\xff\xff", b"\x0a\x05abc", b"\x0a\x04\x0a\x02\xc3\x28"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(method: str, request_bytes: bytes) -> None:
    async with serving(Faulty()) as channel:
        error = await calls.status_of(start(channel, method, request_bytes))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "BadRequest" in calls.details_of(error)


@pytest.mark.check("S23")
@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a.B-9_", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("", False),
        ("é\r\nINFO", False),
    ],
)
async def test_only_harmless_request_ids_are_kept(given: str, is_kept: bool) -> None:
    async with serving(Faulty(RuntimeError())) as channel:
        value: Any = given.encode() if not given.isascii() else given
        key = "x-request-id" if given.isascii() else "x-request-id-bin"
        error = await calls.status_of(start(channel, UNARY, metadata=[(key, value)]))
        returned = dict(error.trailing_metadata())["x-request-id"]
        assert (returned == given) == is_kept
        assert returned


async def test_a_message_beyond_the_limit_is_refused() -> None:
    async with serving(Faulty()) as channel:
        error = await calls.status_of(start(channel, UNARY, bytes(1 << 21)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.check("S07")
async def test_a_port_is_taken_once() -> None:
    first, second = (make_listener([], max_message_bytes=1) for _ in range(2))
    port = bind(first, "127.0.0.1", 0, "--port")
    with pytest.raises(PortError, match=f"^--port {port}: "):
        bind(second, "127.0.0.1", port, "--port")
    await asyncio.gather(first.stop(None), second.stop(None))


@pytest.mark.parametrize("text", ["x", "é", "漢", "\n"])
def test_a_status_fits_into_metadata(text: str) -> None:
    error = InvalidRequestError([Violation(text * 60, text * 300)] * 16)
    status = status_of(error, "r" * 128)
    assert 3 * len(status.message.encode()) + 4 * len(status.details) / 3 < 8 * 1024 - 512
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT


def test_not_found_says_what() -> None:
    status = status_of(NotFoundError("MODEL_NOT_FOUND", "no"), "r")
    assert b"MODEL_NOT_FOUND" in status.details


async def test_reflection_is_there_on_demand_only() -> None:
    for reflected in ((), ("a.Service",)):
        handlers = [reflection_handler(reflected)] if reflected else []
        listener = make_listener(handlers, max_message_bytes=1 << 20)
        port = bind(listener, "127.0.0.1", 0, "--port")
        await listener.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="*")
            call = stub.ServerReflectionInfo(iter([request]))
            if reflected:
                names = [service.name for service in (await call.read()).list_services_response.service]
                assert "a.Service" in names
            else:
                assert (await calls.status_of(call)).code() is grpc.StatusCode.UNIMPLEMENTED
        await listener.stop(None)

"""A reader who stops reading costs little, and is cut; others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tracemalloc
from typing import TYPE_CHECKING, Any

import grpc
import hpack
import msgspec
import pytest
from calls import calling, details_of, status_of
from fakes import INFO, FakeEngine, serve
from http2_peer import Peer, call_headers, headers_frame, message_frame
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame
from processes import wait_until

from pagewire.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from server.gathered import Gathered
from server.generation import MAX_GATHERED_BYTES, Generation
from server.rpc import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fakes import FakeServer

    from engine.messages import RequestOutput

pytestmark = pytest.mark.check("R09")

MAX_BYTES = 256 * 1024
"""What a reader may cost: what gathers, and the message before it, which waits to be sent."""
LARGE = msgspec.structs.replace(INFO, max_model_len=10**6, num_blocks=10**6)


def add_text(gathered: Gathered) -> None:
    gathered.text += "word"


def add_reasoning(gathered: Gathered) -> None:
    gathered.reasoning_text += "é€𝄞 "


def add_ids(gathered: Gathered) -> None:
    gathered.add_token_ids([70_000] * 64)


def add_logprobs(gathered: Gathered) -> None:
    top = [inference_pb2.Alternative(token_id=70_000 + n, token_bytes=b"word") for n in range(20)]
    gathered.add_logprobs([inference_pb2.TokenLogprob(token_id=70_000, token_bytes=b"word", top=top)])


@pytest.mark.parametrize("add", [add_text, add_reasoning, add_ids, add_logprobs])
def test_what_gathers_is_counted_and_takes_no_more(add: Callable[[Gathered], None]) -> None:
    add(Gathered())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        gathered = Gathered()
        while gathered.num_bytes < MAX_GATHERED_BYTES:
            add(gathered)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - before < 1.2 * gathered.num_bytes
    # As a message it is no larger; what it needs while it is made is gone afterwards.
    assert gathered.message(0).ByteSize() < 1.1 * MAX_GATHERED_BYTES


@pytest.mark.parametrize("num_fronts", [0, 2])
async def test_a_reader_that_stops_has_a_cap_before_it_has_a_timeout(
    num_fronts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[int] = []
    note = Generation._note

    def noted(generation: Generation, output: RequestOutput) -> None:
        gathered.append(generation._num_gathered_bytes)
        note(generation, output)

    monkeypatch.setattr(Generation, "_note", noted)
    engine = FakeEngine(lambda _: [65] * 10**6, manual=True, info=LARGE)
    async with calling(engine, write_timeout_s=1000.0, num_fronts=num_fronts) as caller:
        spec = inference_pb2.GenerationSpec(text="hi", output=inference_pb2.OutputOptions(logprobs=20))
        call = caller.stream(spec)
        await engine.until(1)
        engine.step()
        await call.read()
        while engine.live:
            for _ in range(50):
                engine.step()
            await asyncio.sleep(0)
        error = await status_of(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["ErrorInfo"].reason == "SLOW_READER"
    assert 2 * max(gathered) < MAX_BYTES


@pytest.mark.parametrize("num_fronts", [0, 2])
async def test_others_read_on_beside_one_who_stopped(num_fronts: int) -> None:
    engine = FakeEngine(lambda _: [65] * 10**6, manual=True, info=LARGE)
    async with calling(engine, write_timeout_s=1000.0, num_fronts=num_fronts) as caller:
        stopped, reads = (caller.stream(spec) for spec in (spec_of(20), spec_of(0)))
        await engine.until(2)
        engine.step()
        for call in (stopped, reads):
            assert (await call.read()).HasField("started")
        num_tokens = 0
        while len(engine.live) == 2:
            for _ in range(50):
                engine.step()
            num_tokens += sum(choice.num_tokens for choice in (await reads.read()).delta.choices)
        assert num_tokens > 0
        for _ in range(100):
            engine.step()
            assert (await reads.read()).delta.choices
        reads.cancel()
        assert (await status_of(stopped)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def spec_of(num_logprobs: int) -> Any:
    output = inference_pb2.OutputOptions(logprobs=num_logprobs)
    return inference_pb2.GenerationSpec(text="hi", output=output)


async def test_large_deltas_that_are_asked_for_are_no_sign_of_a_slow_reader() -> None:
    engine = FakeEngine(lambda request: [65] * request.sampling.max_tokens, manual=True, info=LARGE)
    async with calling(engine) as caller:
        spec = spec_of(20)
        spec.output.min_delta_tokens = spec.stopping.max_tokens = 2000
        call = caller.stream(spec)
        await engine.until(1)
        while engine.live:
            for _ in range(10):
                engine.step() if engine.live else None
            await asyncio.sleep(0)
        kinds = [event.WhichOneof("event") async for event in call]
    assert kinds == ["started", "delta", "finished"]


async def test_who_waits_is_no_slow_reader_however_much_comes_at_once() -> None:
    """Scenario: the server was busy, and finds many steps' outputs when it looks."""
    engine = FakeEngine(lambda request: [65] * request.sampling.max_tokens, manual=True, info=LARGE)
    async with calling(engine) as caller:
        spec = spec_of(20)
        spec.stopping.max_tokens = 2000
        stream, whole = caller.stream(spec), asyncio.ensure_future(caller.generate(spec))
        await engine.until(2)
        engine.step()
        kinds = [(await stream.read()).WhichOneof("event") for _ in range(2)]
        assert kinds == ["started", "delta"]
        while engine.live:
            engine.step()
        while (event := await stream.read()).HasField("delta"):
            pass
        assert event.finished.usage.num_completion_tokens == 2000
        assert (await whole).usage.num_completion_tokens == 2000


async def test_many_choices_are_no_sign_of_a_slow_reader() -> None:
    """Scenario: each message holds a hundred kibibytes, and four steps pass while one is written."""
    engine = FakeEngine(lambda request: [65] * request.sampling.max_tokens, manual=True, info=LARGE)
    async with calling(engine) as caller:
        spec = spec_of(20)
        spec.sampling.n, spec.stopping.max_tokens = 128, 16
        call = caller.stream(spec)
        reading = asyncio.ensure_future(events_of(call))
        await engine.until(128)
        while engine.live:
            for _ in range(4):
                engine.step()
            await asyncio.sleep(0)
        assert (await reading)[-1].finished.usage.num_completion_tokens == 2048


async def events_of(call: Any) -> list[inference_pb2.StreamGenerateResponse]:
    return [event async for event in call]


@pytest.mark.parametrize("num_choices", [4, 128])
async def test_a_reader_of_several_choices_who_stops_has_all_of_them_ended(num_choices: int) -> None:
    """Result: nothing runs on for whoever has not read, and the last message fits what clients take."""
    script = [65] * 10**6
    engine = FakeEngine(lambda _: script, manual=True, info=LARGE)
    async with calling(engine, write_timeout_s=1000.0) as caller:
        spec = spec_of(20)
        spec.sampling.n, spec.stopping.max_tokens = num_choices, 30_000
        call = caller.stream(spec)
        await engine.until(num_choices)
        engine.step()
        assert (await call.read()).HasField("started")
        while len(engine.live) == num_choices:
            engine.step()
            await asyncio.sleep(0)
        assert not engine.live
        error = await status_of(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["ErrorInfo"].reason == "SLOW_READER"


class FirstMessageUnread:
    """A caller who answers pings, but has no window; its call is served, and the first message on its way."""

    REQUEST_ID = "unread"
    TIMEOUT_S = 60.0

    def __init__(self, server: FakeServer, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
        self.server = server
        self.peer = peer
        self._caplog = caplog
        self._reading = asyncio.create_task(asyncio.to_thread(self._read))

    async def until_logged(self) -> str:
        """Wait until the server is done with the call, and return what its log says."""
        await asyncio.to_thread(wait_until, self._ends, "the call's end is logged", self.TIMEOUT_S)
        assert self.server.services.admission.census() == (0, 0, 0)
        assert not self.server.engine.live
        (end,) = self._ends()
        return end

    def _ends(self) -> list[str]:
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.name == "server.requests" and self.REQUEST_ID in record.getMessage()
        ]

    async def read_on(self) -> tuple[int, dict[str, str]]:
        """Take all that comes; return how many bytes of messages that was, and the last headers."""
        self.peer.send(WindowUpdateFrame(1, window_increment=1 << 16))
        return await self._reading

    async def leave(self) -> None:
        self.peer.hang_up()
        await self._reading

    def _read(self) -> tuple[int, dict[str, str]]:
        decoder, num_bytes = hpack.Decoder(), 0
        for frame in self.peer.frames():
            if isinstance(frame, DataFrame):
                num_bytes += len(frame.data)
            elif isinstance(frame, HeadersFrame):
                headers = {str(name): str(value) for name, value in decoder.decode(frame.data)}
                if "END_STREAM" in frame.flags:
                    return num_bytes, headers
        return num_bytes, {}


@contextlib.asynccontextmanager
async def first_message_unread(
    caplog: pytest.LogCaptureFixture, **settings: Any
) -> AsyncIterator[FirstMessageUnread]:
    caplog.set_level(logging.INFO, "server.requests")
    engine = FakeEngine(lambda _: [65] * 10**6, manual=True, info=LARGE)
    request = inference_pb2.StreamGenerateRequest(spec=inference_pb2.GenerationSpec(text="hi"))
    message = request.SerializeToString()
    headers = call_headers(
        "/pagewire.v1.InferenceService/StreamGenerate", ("x-request-id", FirstMessageUnread.REQUEST_ID)
    )
    async with serve(engine, **settings) as server:
        with Peer(int(server.target.rpartition(":")[2])) as peer:
            peer.send(
                SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}),
                headers_frame(1, headers),
                message_frame(1, b"\0" + len(message).to_bytes(4, "big") + message),
            )
            await engine.until(1)
            engine.step()
            unread = FirstMessageUnread(server, peer, caplog)
            try:
                yield unread
            finally:
                await unread.leave()


async def no_more(unread: FirstMessageUnread) -> None:
    """Nothing has to be done: the time to write is up."""


async def by_operator(unread: FirstMessageUnread) -> None:
    async with grpc.aio.insecure_channel(unread.server.admin_target) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        await stub.AbortRequest(admin_pb2.AbortRequestRequest(request_id=unread.REQUEST_ID))


async def by_drain(unread: FirstMessageUnread) -> None:
    async with grpc.aio.insecure_channel(unread.server.admin_target) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        request = admin_pb2.DrainRequest()
        request.timeout.FromNanoseconds(0)
        assert (await stub.Drain(request, timeout=unread.TIMEOUT_S)).num_aborted == 1


@pytest.mark.parametrize("num_fronts", [0, 1])
@pytest.mark.parametrize(
    ("write_timeout_s", "end", "code", "text"),
    [
        (0.2, no_more, grpc.StatusCode.RESOURCE_EXHAUSTED, "the stream was not read for 0.2 seconds"),
        (1000.0, by_operator, grpc.StatusCode.CANCELLED, "an operator ended the request"),
        (1000.0, by_drain, grpc.StatusCode.UNAVAILABLE, "the server is draining"),
    ],
)
async def test_who_reads_the_first_message_late_has_the_status_behind_it(
    write_timeout_s: float,
    end: Callable[[FirstMessageUnread], Awaitable[None]],
    code: grpc.StatusCode,
    text: str,
    num_fronts: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Scenario: it reads when the server has long been done with its call."""
    settings = {"write_timeout_s": write_timeout_s, "num_fronts": num_fronts}
    async with first_message_unread(caplog, **settings) as unread:
        await end(unread)
        assert code.name in await unread.until_logged()
        num_bytes, headers = await unread.read_on()
    assert num_bytes > 0
    assert headers["grpc-status"] == str(code.value[0])
    assert headers["grpc-message"] == text
    assert headers["x-request-id"] == unread.REQUEST_ID
    assert "grpc-status-details-bin" in headers


@pytest.mark.parametrize("num_fronts", [0, 1])
async def test_who_never_reads_the_first_message_holds_up_no_shutdown(
    num_fronts: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(FirstMessageUnread.TIMEOUT_S):
        async with first_message_unread(caplog, write_timeout_s=0.2, num_fronts=num_fronts) as unread:
            await unread.until_logged()
            await unread.server.public.stop(0.5)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("num_fronts", [0, 1])
async def test_who_leaves_with_the_first_message_unread_leaves_nothing_behind(
    num_fronts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario: it leaves when the server has long been done with its call. Result: nobody hears a status."""
    async with first_message_unread(caplog, write_timeout_s=0.2, num_fronts=num_fronts) as unread:
        await unread.until_logged()
        await unread.leave()
        async with grpc.aio.insecure_channel(unread.server.target) as channel:
            spec = inference_pb2.GenerationSpec(text="hi")
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec))
            await unread.server.engine.until(1)
            unread.server.engine.step()
            assert (await call.read()).HasField("started")
            call.cancel()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_waits_for_a_reader_is_the_message_and_the_status_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    num_before = num_alive()
    async with first_message_unread(caplog, write_timeout_s=0.2) as unread:
        await unread.until_logged()
        await asyncio.to_thread(wait_until, lambda: num_alive() <= num_before, "all else is gone")


def num_alive() -> int:
    """Calls and generations, those that other tests have left included."""
    gc.collect()
    return sum(type(thing) in (Call, Generation) for thing in gc.get_objects())

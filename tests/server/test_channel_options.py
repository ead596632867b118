"""Each option of a gRPC channel has the effect that it is set for; times are short here.

A slow machine only makes the waits longer that a missing option would make a minute or more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from calls import status_of
from fakes import FakeEngine, serve
from http2_attacks import GENERATE
from http2_peer import HEALTH_CHECK, Peer, call_headers, headers_frame
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, SettingsFrame
from processes import wait_until
from server_house import ServerHouse, server_house

from pagewire.channel import CHANNEL_OPTIONS
from pagewire.v1 import admin_pb2, admin_pb2_grpc, inference_pb2
from server import listeners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

WATCH = "/grpc.health.v1.Health/Watch"
STREAM_GENERATE = GENERATE.replace("Generate", "StreamGenerate")
SHORTER = 50
TIME, TIMEOUT, PING_TIMEOUT, MIN_INTERVAL = (
    "grpc.keepalive_time_ms",
    "grpc.keepalive_timeout_ms",
    "grpc.http2.ping_timeout_ms",
    "grpc.http2.min_ping_interval_without_data_ms",
)
PATIENCE_S = 40.0
"""Less than the minute after which gRPC gives up a silent peer by itself."""
NUM_PINGS = 10


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Those of the listeners, for a test to change before it serves."""
    copy = dict(listeners.OPTIONS)
    monkeypatch.setattr(listeners, "OPTIONS", copy)
    return copy


def shorten(options: dict[str, int], *names: str) -> dict[str, int]:
    """Make these times much shorter."""
    options |= {name: options[name] // SHORTER for name in names}
    return options


def client_options(*shortened: str) -> list[tuple[str, int]]:
    """Those of clients, some of them much shorter."""
    numbers = {name: value for name, value in CHANNEL_OPTIONS if isinstance(value, int)}
    return list(shorten(numbers, *shortened).items())


def method(channel: Any, path: str) -> Any:
    return channel.unary_unary(path)


def stream(channel: Any, path: str) -> Any:
    return channel.unary_stream(path)


@contextlib.asynccontextmanager
async def port_of_server(engine: FakeEngine | None = None) -> AsyncIterator[int]:
    async with serve(engine or FakeEngine()) as server:
        yield int(server.target.rpartition(":")[2])


@pytest.mark.check("S21")
async def test_the_server_says_how_many_calls_a_connection_carries_and_how_large_headers_may_be() -> None:
    async with port_of_server() as port:
        with Peer(port) as peer:
            frame = await asyncio.to_thread(peer.until, SettingsFrame)
    assert isinstance(frame, SettingsFrame)
    assert frame.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 128
    assert frame.settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 16 * 1024


@pytest.mark.check("S21")
async def test_metadata_beyond_the_limit_is_refused() -> None:
    async with port_of_server() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = method(channel, HEALTH_CHECK)(b"", metadata=[("x-a", "a" * 20_000)])
        assert (await status_of(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def outlives_pings(port: int) -> bool:
    """Whether a connection without calls lives through pings that come one after the other."""
    with Peer(port) as peer:
        for number in range(NUM_PINGS):
            peer.send(PingFrame(0, opaque_data=number.to_bytes(8, "big")))
            for frame in peer.frames():
                if isinstance(frame, GoAwayFrame):
                    return False
                if isinstance(frame, PingFrame) and "ACK" in frame.flags:
                    break
            else:
                return False
            threading.Event().wait(0.15)
    return True


@pytest.mark.check("S21", "R10")
async def test_a_client_may_ping(options: dict[str, int]) -> None:
    shorten(options, MIN_INTERVAL)
    async with port_of_server() as port:
        assert await asyncio.to_thread(outlives_pings, port)


@pytest.mark.check("S21")
@pytest.mark.parametrize("missing", [MIN_INTERVAL, "grpc.keepalive_permit_without_calls"])
async def test_a_client_may_not_ping_without_these_options(options: dict[str, int], missing: str) -> None:
    shorten(options, MIN_INTERVAL)
    del options[missing]
    async with port_of_server() as port:
        assert not await asyncio.to_thread(outlives_pings, port)


def freeze(port: int) -> None:
    """Start a generation, answer no ping, and wait to be cut off."""
    with Peer(port, timeout_s=PATIENCE_S, answers=False) as peer:
        spec = inference_pb2.GenerationSpec(text="hi")
        body = inference_pb2.StreamGenerateRequest(spec=spec).SerializeToString()
        message = DataFrame(1, b"\0" + len(body).to_bytes(4, "big") + body, flags=["END_STREAM"])
        peer.send(headers_frame(1, call_headers(STREAM_GENERATE)), message)
        for _ in peer.frames():
            pass


@pytest.mark.check("S21", "R10")
async def test_the_server_finds_a_client_that_froze(options: dict[str, int]) -> None:
    shorten(options, TIME, TIMEOUT, PING_TIMEOUT)
    engine = FakeEngine(manual=True)
    async with port_of_server(engine) as port:
        frozen = asyncio.create_task(asyncio.to_thread(freeze, port))
        await engine.until(num_live=1)
        await frozen
        await engine.until(num_live=0)


@contextlib.contextmanager
def frozen_server() -> Iterator[int]:
    """It greets each client, and then says nothing any more."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = stack.enter_context(listener.accept()[0])
                    client.sendall(SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())

        thread = threading.Thread(target=greet)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.check("S21", "R10")
async def test_the_client_finds_a_server_that_froze() -> None:
    short = client_options(TIME, TIMEOUT, PING_TIMEOUT)
    with frozen_server() as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", short) as channel:
            call = method(channel, "/a/b")(b"", timeout=PATIENCE_S)
            assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_an_old_connection_takes_no_more_calls_and_loses_none(
    options: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    def peers() -> set[str]:
        lines = (record for record in caplog.records if record.name == "server.requests")
        return {vars(line)["fields"]["peer"] for line in lines}

    caplog.set_level(logging.DEBUG, "server.requests")
    options["grpc.max_connection_age_ms"] = 300
    async with port_of_server() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = stream(channel, WATCH)(b"")
        await watch.read()
        while len(peers()) < 3:
            await method(channel, HEALTH_CHECK)(b"")
        assert not watch.done()
        watch.cancel()


@pytest.mark.check("R10")
async def test_a_silent_call_outlives_its_clients_pings(options: dict[str, int]) -> None:
    shorten(options, MIN_INTERVAL)
    short = client_options(TIME)
    async with (
        port_of_server() as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", short) as channel,
    ):
        call = stream(channel, WATCH)(b"")
        await call.read()
        await asyncio.sleep(2)  # of pings, one every 200 ms
        assert not call.done()
        call.cancel()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ServerHouse]:
    with server_house(tmp_path) as house:
        yield house


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.check("R10")
def test_a_call_that_is_silent_for_minutes_lives(house: ServerHouse) -> None:
    """With the real times. A server without the option would cut it after 50 seconds."""
    with grpc.insecure_channel(house.target, CHANNEL_OPTIONS) as channel:
        call = stream(channel, WATCH)(b"", timeout=130)
        next(call)
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.slow
@pytest.mark.check("R10")
def test_a_stopped_server_is_found(house: ServerHouse) -> None:
    """With the real times: 15 s or a little more, and not a minute."""
    with grpc.insecure_channel(house.target, CHANNEL_OPTIONS) as channel:
        call = stream(channel, WATCH)(b"", timeout=PATIENCE_S)
        next(call)
        os.kill(house.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
        finally:
            os.kill(house.process.pid, signal.SIGCONT)
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE


CLIENT = """
import sys, pagewire
with pagewire.Client(sys.argv[1]) as client:
    for text in client.stream("hi", ignore_eos=True, max_tokens=4000).texts():
        print(text, flush=True)
"""


@pytest.mark.slow
@pytest.mark.check("R10")
def test_a_stopped_client_is_found(house: ServerHouse) -> None:
    with subprocess.Popen([sys.executable, "-c", CLIENT, house.target], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        os.kill(client.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: num_running(house) == 0, "the engine is free", PATIENCE_S)
        finally:
            client.kill()


def num_running(house: ServerHouse) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{house.admin_port}") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        return stub.GetStats(admin_pb2.GetStatsRequest(), timeout=30).engine.num_running

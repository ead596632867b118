"""Logs that cannot be written, and descriptors that run out: both processes go on serving, and recover."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from fake_house import FakeHouse
from open_calls import all_kinds, grpc_stream, grpc_unary, http_stream, http_unary

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("R23")

TIMEOUT_S = 100.0
SMALLEST_PIPE_BYTES = 4096
MAX_DESCRIPTORS = 256


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    with FakeHouse(tmp_path_factory.mktemp("house")) as house:
        yield house


async def call_all_kinds(house: FakeHouse, count: int) -> None:
    async with (
        grpc.aio.insecure_channel(house.target) as channel,
        httpx.AsyncClient(base_url=house.base_url, timeout=TIMEOUT_S) as client,
    ):
        ends = await asyncio.gather(*all_kinds(channel, client, count, max_tokens=2))
        assert all(end.has_good_end for end in ends), ends


@contextlib.contextmanager
def bad_stderr(kind: str) -> Iterator[int]:
    """A descriptor to which hardly anything can be written."""
    if kind == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
        yield descriptor
        os.close(descriptor)
        return
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE_BYTES)
    yield writing
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("kind", ["full disk", "reader stands still"])
async def test_serves_without_a_log(fake_house: FakeHouse, kind: str) -> None:
    """Each call is a line of the server's log, and the lines are many times what the pipe holds."""
    with bad_stderr(kind) as stderr:
        for process in (fake_house.server, fake_house.translator):
            process.terminate()
            process.wait()
        fake_house.start_server(stderr=stderr)
        fake_house.start_translator(stderr=stderr)
        await asyncio.to_thread(fake_house.wait_until_ready)
        await asyncio.to_thread(fake_house.wait_until_served)
        for _ in range(2):
            await call_all_kinds(fake_house, 64)
        fake_house.server.terminate()
        fake_house.translator.terminate()
        assert await asyncio.to_thread(fake_house.server.wait, TIMEOUT_S) == 0
        assert await asyncio.to_thread(fake_house.translator.wait, TIMEOUT_S) == 0
    fake_house.start_server()
    fake_house.start_translator()
    await asyncio.to_thread(fake_house.wait_until_ready)
    await asyncio.to_thread(fake_house.wait_until_served)


@contextlib.contextmanager
def few_descriptors(pid: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("door", ["HTTP", "gRPC"])
async def test_survives_more_connections_than_descriptors(fake_house: FakeHouse, door: str) -> None:
    process = fake_house.translator if door == "HTTP" else fake_house.server
    port = fake_house.http_port if door == "HTTP" else fake_house.port
    async with (
        grpc.aio.insecure_channel(fake_house.target) as channel,
        httpx.AsyncClient(base_url=fake_house.base_url, timeout=TIMEOUT_S) as client,
    ):
        streams: list[Any] = [grpc_stream(channel, 200), http_stream(client, "/v1/completions", 200)]
        running = [asyncio.create_task(stream) for stream in streams]
        await asyncio.to_thread(fake_house.wait_until_running, len(running))
        with few_descriptors(process.pid):
            connections = [socket.create_connection(("127.0.0.1", port), TIMEOUT_S) for _ in range(300)]
            assert all(end.has_good_end for end in await asyncio.gather(*running))
            for connection in connections:
                connection.close()
            ends = [grpc_unary(channel, 5), http_unary(client, "/v1/completions", 5)]
            assert all(end.has_good_end for end in await asyncio.gather(*ends))
            await call_all_kinds(fake_house, 8)

"""Clients that are too slow are cut, and what HTTP asks beside that works."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_backend import BYE, delta, serving, started

from translator import listener
from translator.http1 import WRITE_BUFFER_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_backend import House

    from pagewire.v1 import inference_pb2

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def connect(house: House) -> socket.socket:
    return socket.create_connection(("127.0.0.1", house.port), timeout=BYE)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65_536):
        answer += part
    return answer


@pytest.mark.check("S17")
@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
def test_headers_that_do_not_come_close_the_connection(sent: bytes) -> None:
    with serving(header_timeout_s=0.2) as house, connect(house) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""


@pytest.mark.check("S17")
def test_a_second_request_has_the_same_time_for_its_headers() -> None:
    with serving() as house, connect(house) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        house.server.settings.limits_s["headers"] = 0.2
        connection.sendall(b"GET /vers")
        assert read_all(connection) == b""


@pytest.mark.check("R09")
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel's timer is Linux's")
def test_a_reader_that_stops_is_cut_and_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HTTP nor gRPC nor the kernel takes more for it than is counted here."""
    num_bytes = 0

    async def talks_for_ever(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        nonlocal num_bytes
        yield started()
        while True:
            yield delta("x" * 1000)
            num_bytes += 1000
            await asyncio.sleep(0)

    monkeypatch.setattr(listener, "STALLED_READER_S", 1)
    with serving() as house:
        house.servicer.script = talks_for_ever
        wait_until_a_stopped_reader_is_cut(house)
    assert 0 < num_bytes < 256 * 1024


@pytest.mark.check("R09")
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel's timer is Linux's")
def test_few_chunks_wait_for_a_reader_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are: each is an object of its own until it is written."""
    most_bytes = 0

    async def talks_in_letters(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        nonlocal most_bytes
        yield started()
        while True:
            yield delta("x")
            (protocol,) = house.server.server_state.connections
            most_bytes = max(most_bytes, protocol.transport.get_write_buffer_size())
            await asyncio.sleep(0)

    monkeypatch.setattr(listener, "STALLED_READER_S", 1)
    with serving() as house:
        house.servicer.script = talks_in_letters
        wait_until_a_stopped_reader_is_cut(house)
    assert 0 < most_bytes < WRITE_BUFFER_BYTES + 1024


def wait_until_a_stopped_reader_is_cut(house: House) -> None:
    with socket.socket() as connection:
        # Its own share is its own matter, and small.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", house.port))
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert house.servicer.left.acquire(timeout=BYE)


def test_one_connection_serves_many_requests(house: House) -> None:
    with httpx.Client(base_url=house.url, timeout=BYE) as http:
        for content in (BODY, b"{", BODY):
            response = http.post(
                "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
            )
            assert response.status_code == (400 if content == b"{" else 200)
        assert http.head("/health").status_code == 200
        assert http.head("/health").content == b""


@pytest.mark.check("S16")
def test_requests_in_a_row_are_answered_in_order(house: House) -> None:
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connect(house) as connection:
        connection.sendall(request * 3 + last)
        answer = read_all(connection)
    assert answer.count(b"data: [DONE]\n\n") == 3
    assert answer.count(b"HTTP/1.1 200") == 4
    assert b'"version"' in answer.rpartition(b"[DONE]")[2]


def test_http_1_0_gets_its_answer(house: House) -> None:
    with connect(house) as connection:
        connection.sendall(HEAD.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        answer = read_all(connection)
    assert answer.endswith(b"data: [DONE]\n\n")

"""Who sends slowly is cut, however many they are, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import selectors
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from raw_http import JSON_POST, allow_open_files, connect, read_all
from scripted_backend import BYE, serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from scripted_backend import House

pytestmark = pytest.mark.check("S17")

HEADERS = b"GET /version HTTP/1.1\r\nHost: a\r\nX: "
BODY = JSON_POST + b"Content-Length: 1000000\r\n\r\n{"
MANY = [100, pytest.param(500, marks=pytest.mark.slow)]


@contextlib.contextmanager
def clients(house: House, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have all begun to send something."""
    allow_open_files(2 * number + 1000)
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(stack.enter_context(connect(house.port)))
            opened[-1].sendall(sent)
        yield opened


def drip_until_closed(connections: Sequence[socket.socket], drop: bytes) -> list[bytes]:
    """Send on and on, a drop at a time, until the server has closed every connection; return what it said."""
    said = dict.fromkeys(connections, b"")
    with selectors.DefaultSelector() as selector:
        for one in connections:
            selector.register(one, selectors.EVENT_READ, one)
        while selector.get_map():
            for key, _ in selector.select(0.02):
                part = b""
                with contextlib.suppress(ConnectionResetError):
                    part = key.data.recv(65_536)
                said[key.data] += part
                if not part:
                    selector.unregister(key.data)
            for key in list(selector.get_map().values()):
                with contextlib.suppress(ConnectionError):
                    key.data.send(drop)
    return list(said.values())


@pytest.mark.parametrize("number", MANY)
def test_headers_that_drip_are_cut(number: int) -> None:
    with serving(header_timeout_s=0.3) as house, clients(house, number, HEADERS) as slow:
        assert drip_until_closed(slow, b"x") == [b""] * number


@pytest.mark.parametrize("number", MANY)
def test_bodies_that_drip_are_cut(number: int) -> None:
    with serving(body_timeout_s=0.3) as house, clients(house, number, BODY) as slow:
        for answer in drip_until_closed(slow, b" "):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nconnection: close\r\n" in answer
        assert house.servicer.specs == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        BODY.replace(b"/v1/completions", b"/nowhere"),
        BODY.replace(b"POST", b"DELETE"),
        BODY.replace(b"application/json", b"text/plain"),
        BODY.replace(b"1000000", b"1000000000"),
        BODY.replace(b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n")
        .replace(b"/v1/completions", b"/nowhere")
        .replace(b"{", b"5\r\n{"),
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{",
    ],
    ids=["unknown", "method", "type", "too large", "chunked", "get"],
)
def test_a_body_that_nobody_reads_may_not_drip_for_ever(request_bytes: bytes) -> None:
    with serving(body_timeout_s=0.3) as house, clients(house, 1, request_bytes) as slow:
        (answer,) = drip_until_closed(slow, b" ")
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("number", MANY)
def test_idle_connections_are_closed(number: int) -> None:
    request = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving(keep_alive_s=1) as house, clients(house, number, request) as idle:
        for one in idle:
            assert read_all(one).startswith(b"HTTP/1.1 200 ")


def test_after_a_body_that_nobody_read_the_next_request_is_served(house: House) -> None:
    request = JSON_POST.replace(b"/v1/completions", b"/nowhere") + b"Content-Length: 10\r\n\r\n{"
    last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connect(house.port) as connection:
        connection.sendall(request)
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 404 ")
        connection.sendall(b" " * 9 + last)
        assert b"HTTP/1.1 200 " in answer + read_all(connection)


@pytest.mark.parametrize("number", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_nobody_waits_for_them(number: int, house: House) -> None:
    """While headers and bodies drip and connections idle, every request of a good client is answered."""
    whole = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with (
        clients(house, number, HEADERS) as slow,
        clients(house, number, BODY),
        clients(house, number, whole),
        httpx.Client(base_url=house.url, timeout=BYE) as http,
    ):
        done = threading.Event()
        dripping = threading.Thread(target=_drip, args=(slow, done))
        dripping.start()
        try:
            for stream in [False, True] * 10:
                response = http.post("/v1/chat/completions", json=body | {"stream": stream})
                assert response.status_code == 200
                assert "lo" in response.text
                assert http.get("/health").status_code == 200
        finally:
            done.set()
            dripping.join(BYE)


def _drip(connections: Sequence[socket.socket], done: threading.Event) -> None:
    while not done.wait(0.02):
        for one in connections:
            with contextlib.suppress(ConnectionError):
                one.send(b"x")

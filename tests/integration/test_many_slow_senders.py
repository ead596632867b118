"""1200 connections that send slowly or nothing: when they are cut, and what others notice, in figures."""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest
from fake_house import FakeHouse
from figures import in_ms, percentile, show
from raw_http import JSON_POST, allow_open_files, connect

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.check("S17"), pytest.mark.slow, pytest.mark.timeout(600)]

BODY = JSON_POST + b"Content-Length: 1000000\r\n\r\n{"
PATIENCE_S = 20.0
"""For a machine that is slower, or does more."""
MOST_DELAY = 2.0
"""Of the other, in the median and in the 99th percentile."""
ALONE_S = 15.0


@dataclass(frozen=True)
class Kind:
    """Clients who begin alike and then send a byte each second, if anything."""

    number: int
    beginning: bytes
    byte: bytes
    limit_s: float
    """When they are cut, by the translator's settings."""


KINDS = {
    "headers": Kind(500, b"GET /version HTTP/1.1\r\nHost: a\r\nX: ", b"x", 10.0),
    "bodies": Kind(200, BODY, b" ", 30.0),
    "idle": Kind(500, b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n", b"", 65.0),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    with FakeHouse(tmp_path_factory.mktemp("senders")) as house:
        house.wait_until_served()
        yield house


@contextlib.contextmanager
def good_client(house: FakeHouse) -> Iterator[list[float]]:
    """Asks while the body runs. Yields how long its answers took, in seconds; each must be right."""
    times_s: list[float] = []
    done = threading.Event()

    def ask() -> None:
        body = {"model": "tiny-model", "prompt": "hi", "max_tokens": 1}
        with httpx.Client(base_url=house.base_url, timeout=100) as http:
            while not done.is_set():
                began_s = time.monotonic()
                response = http.post("/v1/completions", json=body)
                times_s.append(time.monotonic() - began_s)
                assert response.status_code == 200, response.text

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield times_s
        finally:
            done.set()
        asking.result()


def lives_s(connections: Mapping[socket.socket, Kind]) -> dict[socket.socket, float]:
    """Send a byte a second until every connection is closed; return how long that took for each."""
    began_s = next_byte_s = time.monotonic()
    found: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector:
        for one in connections:
            selector.register(one, selectors.EVENT_READ, one)
        while selector.get_map():
            for key, _ in selector.select(0.1):
                if is_closed(key.data):
                    selector.unregister(key.data)
                    found[key.data] = time.monotonic() - began_s
            if time.monotonic() > next_byte_s:
                next_byte_s += 1.0
                for one in set(connections) - set(found):
                    with contextlib.suppress(ConnectionError):
                        one.send(connections[one].byte)
            assert time.monotonic() - began_s < max(kind.limit_s for kind in KINDS.values()) + PATIENCE_S
    return found


def is_closed(connection: socket.socket) -> bool:
    """Whether what can be read is the end."""
    with contextlib.suppress(ConnectionResetError):
        return not connection.recv(65_536)
    return True


def test_they_are_cut_in_time_and_nobody_waits_for_them(house: FakeHouse) -> None:
    allow_open_files(2 * sum(kind.number for kind in KINDS.values()))
    with good_client(house) as alone_s:
        time.sleep(ALONE_S)
    with contextlib.ExitStack() as stack, good_client(house) as beside_s:
        connections: dict[socket.socket, Kind] = {}
        for kind in KINDS.values():
            for _ in range(kind.number):
                one = stack.enter_context(connect(house.http_port))
                one.sendall(kind.beginning)
                connections[one] = kind
        lives = lives_s(connections)
    longest_s = {
        name: max(lives[one] for one, its_kind in connections.items() if its_kind is kind)
        for name, kind in KINDS.items()
    }
    delays = {share: percentile(beside_s, share) / percentile(alone_s, share) for share in (0.5, 0.99)}
    show(
        "S17",
        longest_s={name: round(longest, 1) for name, longest in longest_s.items()},
        other_alone_ms=in_ms(alone_s),
        other_beside_ms=in_ms(beside_s),
        delays={f"p{round(100 * share)}": round(delay, 3) for share, delay in delays.items()},
    )
    for name, kind in KINDS.items():
        assert longest_s[name] < kind.limit_s + PATIENCE_S
    assert max(delays.values()) < MOST_DELAY

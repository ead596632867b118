"""What strangers send is no line of the log, by whichever door."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
from http2_peer import Peer
from hyperframe.frame import GoAwayFrame
from processes import wait_until

if TYPE_CHECKING:
    from processes import House

pytestmark = pytest.mark.check("S23")

FORGED = "\n2026-01-01 00:00:00,000 INFO server.requests: forged\n"
OURS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+(\[\d+\])?: ")


def port_of(target: str) -> int:
    return int(target.rpartition(":")[2])


def test_strangers_write_no_lines(house: House) -> None:
    """Scenario: a farewell of HTTP/2 whose text has line breaks, and HTTP/1 that is none. Result: all lines
    of the log are ours, and what was sent is in none of them."""
    known = len(house.log.read_text())
    with Peer(port_of(house.grpc_target)) as peer:
        peer.send_bytes(GoAwayFrame(0, 0, error_code=11, additional_data=FORGED.encode()).serialize())
        assert peer.is_answered()
    for request in (
        b"\0garbage\r\n\r\n",
        f"GET {FORGED}".encode(),
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port_of(house.base_url)), timeout=60) as connection:
            connection.sendall(request)
            connection.recv(1000)
    wait_until(lambda: "Invalid HTTP request" in house.log.read_text()[known:], "the last is told")
    lines = house.log.read_text()[known:].splitlines()
    assert [line for line in lines if not OURS.match(line)] == []
    assert not any("forged" in line for line in lines)

"""HTTP/1 by hand: bytes to a port of this machine, and what comes until it closes."""

from __future__ import annotations

import contextlib
import resource
import socket
from typing import NamedTuple

from scripted_backend import BYE

JSON_POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
PROMPT = b'{"prompt":"a"}'


class RawAnswer(NamedTuple):
    """The first response on a connection, and all that came."""

    status: int
    body: bytes
    everything: bytes


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=BYE)


def allow_open_files(number: int) -> None:
    """Let this process have so many, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end. A server that closes with bytes unread resets the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            answer += part
    return answer


def exchange(port: int, request: bytes) -> RawAnswer:
    """Send bytes, and read until the server closes."""
    with connect(port) as connection:
        with contextlib.suppress(ConnectionError):  # it may close before it has read everything
            connection.sendall(request)
        everything = read_all(connection)
    head, _, body = everything.partition(b"\r\n\r\n")
    return RawAnswer(int(head.split(b" ", 2)[1]) if head else 0, body, everything)

"""What HTTP/2 forbids (RFC 9113), byte for byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from http2_attacks import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    message,
    reset,
    setting,
    start,
    widen,
)
from http2_peer import PREFACE, block, call_headers, raw_frame
from hyperframe.frame import SettingsFrame

if TYPE_CHECKING:
    from http2_peer import Header

PUSH_PROMISE, GOAWAY = 5, 7
PADDED, PRIORITY_FLAG, ACK = 8, 32, 1


def _call(*more: Header) -> bytes:
    """A whole call with these headers beside the usual ones."""
    return start(1, block([*call_headers(), *more])) + message(1)


def _without(name: str, *more: Header) -> bytes:
    """A whole call without one of the usual headers."""
    return start(1, block([*more, *(header for header in call_headers() if header[0] != name)])) + message(1)


OPENINGS: dict[str, bytes] = {
    "a preface of HTTP/1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a preface that is wrong at its end": PREFACE[:-2] + b"XX" + SettingsFrame(0).serialize(),
    "noise": bytes(range(256)) * 4,
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "frames without a preface": SettingsFrame(0).serialize() + start(1) + message(1),
    "no settings first": PREFACE + start(1) + message(1),
}
"""Sent first of all."""

CONNECTION: dict[str, bytes] = {
    "a frame larger than is allowed": raw_frame(DATA, 0, 1, bytes(5_000_000)),
    "headers between headers": start(1, flags=0) + start(3),
    "a ping between headers": start(1, flags=0) + raw_frame(PING, 0, 0, bytes(8)),
    "continuation of another stream": start(1, flags=0) + raw_frame(CONTINUATION, END_HEADERS, 3),
    "continuation of nothing": raw_frame(CONTINUATION, END_HEADERS, 1, block(call_headers())),
    "a short ping": raw_frame(PING, 0, 0, bytes(7)),
    "a long ping": raw_frame(PING, 0, 0, bytes(9)),
    "settings on a stream": raw_frame(SETTINGS, 0, 1, struct.pack(">HI", 4, 65_535)),
    "settings of seven bytes": raw_frame(SETTINGS, 0, 0, bytes(7)),
    "settings that acknowledge and set": raw_frame(SETTINGS, ACK, 0, struct.pack(">HI", 4, 65_535)),
    "push that is neither on nor off": setting(2, 2),
    "a window wider than can be": setting(4, 2**31),
    "frames smaller than can be": setting(5, 16_383),
    "frames larger than can be": setting(5, 2**24),
    "a reset of three bytes": start(1) + raw_frame(RST_STREAM, 0, 1, bytes(3)),
    "a widening of three bytes": raw_frame(WINDOW_UPDATE, 0, 0, bytes(3)),
    "a widening of the connection by nothing": widen(0, 0),
    "an index that no table has": start(1, b"\xff\xff\x7f") + message(1),
    "index 0": start(1, b"\x80") + message(1),
    "a text longer than its block": start(1, b"\x40\x7f\xff\x7f") + message(1),
    "a number without end": start(1, b"\xff" * 12) + message(1),
    "a table larger than was offered": start(1, b"\x3f\xe1\xff\x7f" + block(call_headers())) + message(1),
    "padding longer than its frame": start(1) + raw_frame(DATA, PADDED, 1, b"\xff" + bytes(5)),
    "padding of headers longer than their frame": raw_frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff"),
    "priority of headers cut short": raw_frame(HEADERS, PRIORITY_FLAG | END_HEADERS, 1, bytes(3)),
    "a farewell of seven bytes": raw_frame(GOAWAY, 0, 0, bytes(7)),
}
"""Sent after the greeting."""

IGNORED: dict[str, bytes] = {
    "data on stream 0": raw_frame(DATA, 0, 0, bytes(5)),
    "headers on stream 0": start(0),
    "data on a stream that was never opened": message(5),
    "a stream of even number": start(2) + message(2),
    "a ping on a stream": raw_frame(PING, 0, 1, bytes(8)),
    "a reset on stream 0": raw_frame(RST_STREAM, 0, 0, bytes(4)),
    "a window of the connection too wide": widen(0, 2**31 - 1) + widen(0, 2**31 - 1),
    "a push by the client": raw_frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2)),
    "priority on stream 0": raw_frame(PRIORITY, 0, 0, bytes(5)),
    "priority of four bytes": raw_frame(PRIORITY, 0, 1, bytes(4)),
    "a farewell on a stream": raw_frame(GOAWAY, 0, 1, bytes(8)),
}
"""Sent after the greeting, and without consequence in gRPC."""

CALLS: dict[str, bytes] = {
    "a Huffman code that does not end": start(1, b"\x40\x81\xff\x81\xff") + message(1),
    "no path": _without(":path"),
    "no method": _without(":method"),
    "no scheme": _without(":scheme"),
    "GET": _without(":method", (":method", "GET")),
    "two paths": _call((":path", "/other")),
    "an unknown header with a colon": _call((":protocol-of-mine", "x")),
    "a header in capitals": _call(("X-Capital", "x")),
    "an empty name": _call(("", "x")),
    "a timeout that is no number": _call(("grpc-timeout", "soonS")),
    "an encoding that nobody has": _call(("grpc-encoding", "mine")),
    "metadata that is not base64": _call(("x-a-bin", "***")),
    "a path that is none": _without(":path", (":path", "no/slash")),
    "a message shorter than it says": start(1) + raw_frame(DATA, END_STREAM, 1, b"\0\0\0\0\x09abc"),
    "a prefix cut short": start(1) + raw_frame(DATA, END_STREAM, 1, b"\0\0"),
    "a message of 4 GiB": start(1) + raw_frame(DATA, END_STREAM, 1, b"\0\xff\xff\xff\xff"),
    "compressed by nothing": start(1) + raw_frame(DATA, END_STREAM, 1, b"\x01\0\0\0\x01a"),
    "no message": start(1, flags=END_HEADERS | END_STREAM),
    "data after a reset": start(1) + reset(1) + message(1),
    "a stream that depends on itself": raw_frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 7)),
    "a window of nothing": start(1) + widen(1, 0),
    "a window too wide": start(1) + widen(1, 2**31 - 1),
    "an unknown error": start(1) + raw_frame(RST_STREAM, 0, 1, b"\xff\xff\xff\xff"),
    "headers beyond the limit": _call(("x-a", "b" * 100_000)),
}
"""Of one call, which is not served; the connection may live on."""

ODD_CALLS: dict[str, bytes] = {
    "a stream number that goes back": start(5) + message(5) + start(3) + message(3),
    "a line break in a value": _call(("x-a", "a\r\nb: c")),
    "NUL in a value": _call(("authorization", b"Bearer \x00key")),
    "bytes beyond ASCII in a value": _call(("authorization", b"Bearer \xfc\xff")),
    "a header of HTTP/1": _call(("connection", "close")),
    "another content type": _without("content-type", ("content-type", "text/html")),
    "no content type": _without("content-type"),
    "an unknown flag of a message": start(1) + raw_frame(DATA, END_STREAM, 1, b"\x07\0\0\0\0"),
    "two messages": start(1) + raw_frame(DATA, 0, 1, bytes(5)) + message(1),
    "data after the end": start(1) + message(1) + message(1),
    "headers after the end": start(1) + message(1) + start(1),
}
"""Of one call that gRPC may serve all the same."""

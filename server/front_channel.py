"""One end of the socket between the server and a front."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Generic, TypeVar

from server.front_messages import LENGTH, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from server.front_messages import Order, Report

BEAT_INTERVAL_S = 1.0
Message = TypeVar("Message")


class FrontChannel(asyncio.Protocol, Generic[Message]):
    """Sends messages and hears others. All that one turn of the loop sends goes in one write.

    While it is open it sends an empty message each second, so that the other end knows that this loop turns.
    Silence is counted in these beats of ours: if it is this loop that was stopped, that was one.
    """

    def __init__(
        self,
        decode: Callable[[memoryview], Message],
        on_message: Callable[[Message], None],
        on_close: Callable[[], None],
        on_silence: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._on_message = on_message
        self._on_close = on_close
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._num_silent_beats = 0
        self._most_silent_beats = math.inf

    async def open(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    def watch(self, silence_timeout_s: float) -> None:
        """Call back, from now on, whenever the other end has been silent for so long."""
        self._num_silent_beats = 0
        self._most_silent_beats = silence_timeout_s / BEAT_INTERVAL_S

    def send(self, message: Report | Order) -> None:
        """Send a message; it is lost if the other end has gone."""
        self._send(encode(message))

    def close(self) -> None:
        """Send what is left, and close."""
        self._stop_beating()
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._beat()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_beating()
        self._transport = None
        self._on_close()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._num_silent_beats = 0
        received = self._received
        received += data
        start = 0
        with memoryview(received) as view:
            while (body := start + LENGTH.size) <= len(received):
                end = body + LENGTH.unpack_from(view, start)[0]
                if end > len(received):
                    break
                if end > body:
                    self._on_message(self._decode(view[body:end]))
                start = end
        del received[:start]

    def _send(self, payload: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += (LENGTH.pack(len(payload)), payload)

    def _beat(self) -> None:
        self._beating = self._loop.call_later(BEAT_INTERVAL_S, self._beat)
        self._send(b"")
        self._num_silent_beats += 1
        if self._num_silent_beats > self._most_silent_beats:
            self._num_silent_beats = 0
            self._on_silence()

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._transport is not None and data:
            self._transport.write(data)

"""One end of the socket between the server and a front."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from server.front_messages import LENGTH, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from server.front_messages import Order, Report

Message = TypeVar("Message")


class FrontChannel(asyncio.Protocol, Generic[Message]):
    """Sends messages and hears others. All that one turn of the loop sends goes in one write."""

    def __init__(
        self,
        decode: Callable[[memoryview], Message],
        on_message: Callable[[Message], None],
        on_close: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    async def open(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    def send(self, message: Report | Order) -> None:
        """Send a message; it is lost if the other end has gone."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        payload = encode(message)
        self._unsent += (LENGTH.pack(len(payload)), payload)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._on_close()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        received = self._received
        received += data
        start = 0
        with memoryview(received) as view:
            while (body := start + LENGTH.size) <= len(received):
                end = body + LENGTH.unpack_from(view, start)[0]
                if end > len(received):
                    break
                self._on_message(self._decode(view[body:end]))
                start = end
        del received[:start]

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._transport is not None and data:
            self._transport.write(data)

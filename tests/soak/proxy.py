"""A TCP proxy that loses connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random

LOSS = 0.3
"""Share of connections that are lost during a storm."""
LONGEST_LIFE_S = 1.0
"""Of a new one that will be lost."""
CHUNK_BYTES = 65_536


class Proxy:
    """Stands before one port."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self._target_port = port
        self._dice = dice
        self._is_stormy = False
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.gather(*self._serving)

    def storm(self) -> None:
        """From now on lose connections: some that are open, and some that come."""
        self._is_stormy = True
        for writer in list(self._open):
            if self._dice.random() < LOSS:
                writer.transport.abort()

    def calm(self) -> None:
        """Lose no more."""
        self._is_stormy = False

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, far_writer)
        self._open.update(both)
        if self._is_stormy and self._dice.random() < LOSS:
            asyncio.get_running_loop().call_later(
                self._dice.random() * LONGEST_LIFE_S, writer.transport.abort
            )
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._open.difference_update(both)
            for one in both:
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end; a lost connection ends the other direction too."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    if writer.can_write_eof() and not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.write_eof()

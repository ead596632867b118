"""Who takes a connection, where several processes listen on one socket."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from translator import acceptor
from translator.acceptor import Acceptor, ConnectionCounts

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TIMEOUT_S = 60.0


class Listener:
    """A socket of this machine, and those that were taken from it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []
        self.changed = asyncio.Event()

    async def connect(self, connection: socket.socket) -> None:
        self.taken.append(connection)
        self.changed.set()

    async def until_taken(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.taken) < count:
                self.changed.clear()
                await self.changed.wait()

    def knock(self) -> socket.socket:
        return socket.create_connection(self.socket.getsockname())

    def close(self) -> None:
        for each in (self.socket, *self.taken):
            each.close()


async def test_connections_are_taken_until_it_is_closed() -> None:
    listener = Listener()
    taking = Acceptor(listener.socket, listener.connect)
    callers = [listener.knock() for _ in range(3)]
    await listener.until_taken(3)
    taking.close()
    callers.append(listener.knock())  # waits in the backlog for somebody else
    await asyncio.sleep(0)
    assert len(listener.taken) == 3
    other = Acceptor(listener.socket, listener.connect)
    await listener.until_taken(4)
    other.close()
    listener.close()
    for caller in callers:
        caller.close()


async def test_who_has_more_lets_others_go_first_but_not_for_ever() -> None:
    listener, asked = Listener(), 0

    def should_wait() -> bool:
        nonlocal asked
        asked += 1
        return True

    taking = Acceptor(listener.socket, listener.connect, should_wait)
    caller = listener.knock()
    await listener.until_taken(1)
    assert asked >= 1
    taking.close()
    caller.close()
    listener.close()


async def test_a_process_without_descriptors_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "EXHAUSTED_S", 0.01)

    class Exhausted(socket.socket):
        failures = 2

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return super().accept()

    listener = Listener()
    listener.socket.close()
    listener.socket = Exhausted()
    listener.socket.bind(("127.0.0.1", 0))
    listener.socket.listen()
    taking = Acceptor(listener.socket, listener.connect)
    caller = listener.knock()
    await listener.until_taken(1)
    taking.close()
    caller.close()
    listener.close()


def test_counts_are_seen_by_all(tmp_path: Path) -> None:
    file = tmp_path / "connections"
    ConnectionCounts.make(file, 3)
    processes = [ConnectionCounts(file, index) for index in range(3)]

    def least() -> list[bool]:
        return [process.is_least for process in processes]

    assert least() == [True, True, True]
    processes[0].note(2)
    processes[1].note(1)
    assert least() == [False, False, True]
    processes[2].note(1)
    assert least() == [False, True, True]

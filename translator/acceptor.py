"""Takes connections from a socket, which other processes of the translator may listen on too.

They are kept for long, so it matters who takes them: a process takes one at a time, and where another one has
fewer it lets that one go first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

log = logging.getLogger("translator")

COURTESY_S = 0.002
"""How long a connection waits for a process that has fewer. It may be busy, or gone."""
EXHAUSTED_S = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_COUNT_BYTES = 4


class ConnectionCounts:
    """How many connections each process has, in a small file that all of them map."""

    def __init__(self, file: Path, index: int) -> None:
        """Take the place of the process with this index. The count of one that is gone stays as it was."""
        with file.open("r+b") as opened:
            self._counts = memoryview(mmap.mmap(opened.fileno(), 0)).cast("I")
        self._index = index

    @staticmethod
    def make(file: Path, num_processes: int) -> None:
        """Make the file, before any process is there."""
        file.write_bytes(bytes(_COUNT_BYTES * num_processes))

    def note(self, num_connections: int) -> None:
        """Tell the others how many there are here."""
        self._counts[self._index] = num_connections

    @property
    def is_least(self) -> bool:
        """Whether no other process has fewer."""
        return self._counts[self._index] == min(self._counts)


class Acceptor:
    """Takes connections while it is open. Made within a running event loop."""

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket], Coroutine[None, None, None]],
        should_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin.

        Args:
            listener: listens already.
            connect: serves a connection, once it is there.
            should_wait: asked before each one, whether another process had better take it.
        """
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._connect = connect
        self._should_wait = should_wait
        self._connecting: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._look)

    @property
    def num_connecting(self) -> int:
        """Connections that are taken, but not served yet."""
        return len(self._connecting)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    def _look(self) -> None:
        if self._should_wait():
            self._resume_after(COURTESY_S)
        else:
            self._accept()

    def _resume_after(self, seconds: float) -> None:
        def resume() -> None:
            self._pause = None
            self._loop.add_reader(self._listener, self._look)
            self._accept()

        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, resume)

    def _accept(self) -> None:
        """Take one. If more wait, the loop calls again, and the other processes' loops do too."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.error("cannot take a connection: %s; trying again in %g s", error.strerror, EXHAUSTED_S)
            self._resume_after(EXHAUSTED_S)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

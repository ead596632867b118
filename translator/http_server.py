"""The process's HTTP server: its socket, its limits, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from translator.acceptor import Acceptor, ConnectionCounts
from translator.http1 import Http1Protocol, Http1Settings
from translator.listener import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator
    from types import FrameType

    from starlette.types import ASGIApp

    from translator.backend import Backend
    from translator.config import TranslatorConfig
    from translator.tls import HttpTls

log = logging.getLogger("translator")


class TranslatorServer(uvicorn.Server):
    """A uvicorn server that drains: the first signal refuses new work, the second ends at once."""

    def __init__(
        self,
        settings: Http1Settings,
        backend: Backend,
        drain_timeout_s: float,
        tls: HttpTls | None,
        counts: ConnectionCounts | None = None,
    ) -> None:
        """`counts` are of all processes that listen on the same socket, where there are several."""
        super().__init__(settings)
        self.settings = settings
        self._tls = tls
        self._backend = backend
        self._drain_timeout_s = drain_timeout_s
        self._drain_deadline_s: float | None = None
        self._counts = counts
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections from bound sockets."""
        await super().startup(sockets=[])
        for listener in sockets or ():
            listener.listen(BACKLOG)
            self._acceptors.append(Acceptor(listener, self._connect, self._should_wait))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and end what there is."""
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)

    async def _connect(self, connection: socket.socket) -> None:
        def make_protocol() -> Http1Protocol:
            return Http1Protocol(self.settings, self.server_state, self.lifespan.state)

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make_protocol, connection, ssl=self.settings.ssl
            )
        except OSError as error:  # of TLS too: what the client did
            log.debug("a connection came to nothing: %s", error)

    def _should_wait(self) -> bool:
        if self._counts is None:
            return False
        self._note_connections(self._counts)
        return not self._counts.is_least

    def _note_connections(self, counts: ConnectionCounts) -> None:
        num_connecting = sum(acceptor.num_connecting for acceptor in self._acceptors)
        counts.note(len(self.server_state.connections) + num_connecting)

    def stop(self) -> None:
        """Begin to drain."""
        if self._drain_deadline_s is None:
            self._drain_deadline_s = time.monotonic() + self._drain_timeout_s
            self._backend.drain()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle the signals that end the process. They are not raised again, so the exit code is ours."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._drain_deadline_s is None:
            self.stop()
        else:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Tell, about ten times a second, whether it is time to close."""
        if self._tls is not None:
            self._tls.refresh()
        if self._counts is not None:
            self._note_connections(self._counts)
        if self._drain_deadline_s is not None:
            if self._backend.num_running == 0:
                return True
            if time.monotonic() >= self._drain_deadline_s:
                log.warning("ending %d requests that did not finish in time", self._backend.num_running)
                self._backend.cut()
                return True
        return await super().on_tick(counter)


def make_server(
    app: ASGIApp, backend: Backend, config: TranslatorConfig, tls: HttpTls | None = None
) -> TranslatorServer:
    """Return the HTTP server, not started. Without `tls` it speaks clear text."""
    settings = Http1Settings(app, config)
    if tls is not None:
        settings.load()
        settings.ssl = tls.context
    worker = config.worker
    counts = None if worker is None else ConnectionCounts(worker.connections_file, worker.index)
    return TranslatorServer(settings, backend, config.drain_timeout_s, tls, counts)

"""The process's HTTP server: its socket, its limits, and how it stops."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from translator.http1 import Http1Settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from starlette.types import ASGIApp

    from translator.backend import Backend
    from translator.config import TranslatorConfig
    from translator.tls import HttpTls

log = logging.getLogger("translator")

STALLED_READER_S = 30
MAX_UNSENT_BYTES = 64 * 1024


class TranslatorServer(uvicorn.Server):
    """A uvicorn server that drains: the first signal refuses new work, the second ends at once."""

    def __init__(
        self, settings: Http1Settings, backend: Backend, drain_timeout_s: float, tls: HttpTls | None
    ) -> None:
        super().__init__(settings)
        self.settings = settings
        self._tls = tls
        self._backend = backend
        self._drain_timeout_s = drain_timeout_s
        self._drain_deadline_s: float | None = None

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
    return TranslatorServer(settings, backend, config.drain_timeout_s, tls)


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address that nobody else listens on.

    Raises:
        OSError: the address is taken or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it: a client that stops reading is cut by the kernel.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_READER_S * 1000)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Nor does the kernel keep megabytes for it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener

"""A translator whose port speaks TLS, and a clock by which files are looked at each time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.http_server import make_server
from translator.listener import open_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from translator.tls import HttpTls


class Clock:
    """Each look at it finds that two seconds have passed."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 2.0
        return self.now_s


@contextlib.asynccontextmanager
async def translating(
    tls: HttpTls | None, target: str = "127.0.0.1:1", credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[int]:
    """A translator; yields its port."""
    listener = open_listener("127.0.0.1", 0)
    backend = Backend(target, 20.0, credentials)
    config = TranslatorConfig(drain_timeout_s=1.0)
    server = make_server(build_app(config, backend), backend, config, tls)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listener.listen()
    try:
        yield listener.getsockname()[1]
    finally:
        server.stop()
        await serving
        await backend.close()

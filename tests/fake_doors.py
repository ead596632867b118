"""Both doors over a fake engine: the real services behind the real translator, in one background thread."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal
from fakes import FakeEngine, FakeServer, serve

from gate.key_ring import KeyRing
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.http_server import make_server
from translator.listener import open_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from anyio.from_thread import BlockingPortal

    from gate.keys import Key


@dataclass(frozen=True)
class FakeDoors:
    """Where the doors are, and what stands behind them."""

    portal: BlockingPortal
    """Calls into the thread in which all of it runs."""
    server: FakeServer
    backend: Backend
    port: int

    @property
    def engine(self) -> FakeEngine:
        return self.server.engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_target(self) -> str:
        return self.server.target


@contextlib.contextmanager
def fake_doors(
    make_engine: Callable[[], FakeEngine] = FakeEngine,
    *,
    max_queued_requests: int = 64,
    api_keys: tuple[Key, ...] = (),
    **settings: Any,
) -> Iterator[FakeDoors]:
    """Open both doors; the translator has these settings."""
    with start_blocking_portal() as portal:
        opened = _open(portal, make_engine, max_queued_requests, api_keys, settings)
        with portal.wrap_async_context_manager(opened) as doors:
            yield doors


@contextlib.asynccontextmanager
async def _open(
    portal: BlockingPortal,
    make_engine: Callable[[], FakeEngine],
    max_queued_requests: int,
    api_keys: tuple[Key, ...],
    settings: dict[str, Any],
) -> AsyncIterator[FakeDoors]:
    keys = KeyRing(api_keys)
    async with serve(make_engine(), max_queued_requests=max_queued_requests, keys=keys) as server:
        config = TranslatorConfig(grpc_target=server.target, port=0, api_keys=api_keys, **settings)
        listener = open_listener(config.host, config.port)
        backend = Backend(config.grpc_target, config.request_timeout_s)
        http = make_server(build_app(config, backend), backend, config)
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        listener.listen()
        try:
            yield FakeDoors(portal, server, backend, listener.getsockname()[1])
        finally:
            http.stop()
            backend.cut()
            await serving
            await backend.close()

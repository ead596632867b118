"""The process that serves the HTTP application: alone, or as one of several."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import uvicorn

from gate.certificates import CertificateError
from gate.keys import KeyFileError
from pagewire.channel import tls_credentials
from translator import process_metrics, side_doors
from translator.admin_backend import AdminBackend
from translator.app import build_routes, surround
from translator.backend import Backend
from translator.http_server import make_server
from translator.listener import BACKLOG, open_listener
from translator.middleware import FaultMiddleware
from translator.own_key import OwnKey
from translator.peers import Peers, PeerServer
from translator.response_shelf import ITEMS, TURNS
from translator.tls import HttpTls
from watch import heap

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

    import grpc
    from starlette.applications import Starlette

    from translator.config import TranslatorConfig, Worker
    from translator.http_spans import HttpSpans
    from translator.response_shelf import ResponseShelf
    from watch.tracing import Tracing

log = logging.getLogger("translator")

_CANNOT_USE = 2


def run(config: TranslatorConfig, listener: socket.socket | None = None) -> int:
    """Serve until a signal, and return the exit code: 0, or 2 where address or files cannot be used.

    `listener` is a socket that somebody else has opened for us, and maybe for others too.
    """
    if listener is None:
        try:
            listener = open_listener(config.host, config.port)
        except OSError as error:
            log.error("cannot listen on %s port %d: %s", config.host, config.port, error.strerror or error)
            return _CANNOT_USE
        listener.listen(BACKLOG)  # connections wait from now on, as the line says
        host, port = listener.getsockname()[:2]
        scheme = "http" if config.tls is None else "https"
        log.info("listening on %s://%s:%d, model server at %s", scheme, host, port, config.grpc_target)
    heap.share_arena()
    # uvicorn would set up logging of its own, which waits for whoever reads it.
    factory = uvicorn.Config(app="", loop="auto", log_config=None).get_loop_factory()
    try:
        with listener, asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(config, listener))
    except (CertificateError, KeyFileError) as error:
        log.error("%s", error)
        return _CANNOT_USE
    return 0


def _client_credentials(config: TranslatorConfig) -> grpc.ChannelCredentials | None:
    """What is shown to the model server, and whom it must be known by."""
    if config.grpc_ca_certs is None:
        return None
    return tls_credentials(config.grpc_ca_certs, config.grpc_client_certfile, config.grpc_client_keyfile)


async def serve(config: TranslatorConfig, listener: socket.socket) -> None:
    """Serve on a bound socket until a signal."""
    credentials = _client_credentials(config)
    tls = None if config.tls is None else HttpTls(config.tls, config.ssl_cert_reqs)
    backend = Backend(config.grpc_target, config.request_timeout_s, credentials)
    own_key = OwnKey(config.admin_secrets, config.admin_api_key_file)
    admin, stats = (
        AdminBackend(target, config.request_timeout_s, own_key, credentials) if target else None
        for target in (config.admin_target, config.stats_target)
    )
    tracing, spans = _make_spans(config.otlp_traces_endpoint)
    try:
        async with _with_peers(config.worker) as peers:
            routed = build_routes(config, backend, admin, stats, peers)
            app = surround(routed, config, backend, spans)
            heap.settle()
            async with _answering(config.worker, routed, backend):
                await make_server(app, backend, config, tls).serve(sockets=[listener])
    finally:
        heap.unsettle()
        await backend.close()
        for opened in (admin, stats):
            if opened is not None:
                await opened.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def _with_peers(worker: Worker | None) -> AsyncGenerator[Peers | None, None]:
    """Connect to the other processes, if there are any."""
    if worker is None:
        yield None
        return
    peers = Peers(worker)
    try:
        yield peers
    finally:
        await peers.close()


@asynccontextmanager
async def _answering(
    worker: Worker | None, routed: Starlette, backend: Backend
) -> AsyncGenerator[None, None]:
    """Answer the other processes, if there are any."""
    if worker is None:
        yield
        return
    shelf = cast("ResponseShelf", routed.state.responses)

    async def tell_load(_: bytes) -> bytes:
        return b"%d" % backend.num_running

    async def tell_measures(_: bytes) -> bytes:
        return process_metrics.encode(process_metrics.families_of(backend.metrics.registry))

    answers = {
        TURNS: shelf.tell_turns,
        ITEMS: shelf.tell_items,
        side_doors.LOAD: tell_load,
        side_doors.MEASURES: tell_measures,
    }
    server = PeerServer(worker, FaultMiddleware(routed), answers)
    await server.start()
    try:
        yield
    finally:
        await server.stop()


def _make_spans(endpoint: str | None) -> tuple[Tracing | None, HttpSpans | None]:
    if endpoint is None:
        return None, None
    # the packages that these need are an extra
    from translator.http_spans import HttpSpans
    from watch.tracing import open_tracing

    tracing = open_tracing(endpoint, "pagewire-translator")
    return tracing, HttpSpans(tracing)

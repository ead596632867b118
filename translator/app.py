"""The HTTP application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from gate.credentials import is_loopback
from gate.key_ring import KeyRing
from translator import (
    adapters,
    chat,
    completions,
    docs_page,
    embeddings,
    health,
    messages,
    models,
    openapi,
    responses,
    side_doors,
    tokenize,
)
from translator.access_log import AccessLogMiddleware
from translator.console import facts, page
from translator.error_bodies import error_body
from translator.errors import ApiError, ClientDisconnectedError, internal_error
from translator.gate import HEALTH_PATHS, METRICS_PATHS, PAGE_PATHS, GateMiddleware
from translator.metrics_middleware import MetricsMiddleware
from translator.middleware import FaultMiddleware, RequestIdMiddleware, RequestLimitMiddleware
from translator.requests import request_id_of
from translator.response_shelf import ResponseShelf
from translator.traces import TraceMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from translator.admin_backend import AdminBackend
    from translator.backend import Backend
    from translator.config import TranslatorConfig
    from translator.http_spans import HttpSpans
    from translator.peers import Peers

log = logging.getLogger("translator")

_MAX_SHOWN = 200
"""Characters of a caller's own path in a message."""

ROUTES = (
    Route("/", page.page, methods=["GET"]),
    Route("/console/models", facts.models, methods=["GET"]),
    Route("/console/stats", facts.stats, methods=["GET"]),
    Route("/v1/chat/completions", chat.create_chat_completion, methods=["POST"]),
    Route("/v1/completions", completions.create_completion, methods=["POST"]),
    Route("/v1/embeddings", embeddings.create_embeddings, methods=["POST"]),
    Route("/v1/messages", messages.create_message, methods=["POST"]),
    Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
    Route("/v1/responses", responses.create_response, methods=["POST"]),
    Route("/v1/responses/input_tokens", responses.count_input_tokens, methods=["POST"]),
    Route("/v1/responses/{response_id}", responses.get_response, methods=["GET"]),
    Route("/v1/responses/{response_id}", responses.delete_response, methods=["DELETE"]),
    Route("/v1/responses/{response_id}/cancel", responses.cancel_response, methods=["POST"]),
    Route("/v1/responses/{response_id}/input_items", responses.list_input_items, methods=["GET"]),
    Route("/v1/models", models.list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", models.get_model, methods=["GET"]),
    Route("/tokenize", tokenize.tokenize, methods=["POST"]),
    Route("/v1/tokenize", tokenize.tokenize, methods=["POST"]),
    Route("/detokenize", tokenize.detokenize, methods=["POST"]),
    Route("/v1/detokenize", tokenize.detokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenize.tokenizer_info, methods=["GET"]),
    Route("/v1/load_lora_adapter", adapters.load_adapter, methods=["POST"]),
    Route("/v1/unload_lora_adapter", adapters.unload_adapter, methods=["POST"]),
    Route("/health", health.ready, methods=["GET"]),
    Route("/v1/health", health.ready, methods=["GET"]),
    Route("/ping", health.ready, methods=["GET", "POST"]),
    Route("/health/live", health.live, methods=["GET"]),
    Route("/health/ready", health.ready, methods=["GET"]),
    Route("/version", health.version, methods=["GET"]),
    Route("/load", side_doors.load, methods=["GET"]),
    Route("/metrics", side_doors.metrics, methods=["GET"]),
    Route("/openapi.json", openapi.openapi, methods=["GET"]),
    Route("/docs", docs_page.docs, methods=["GET"]),
)


def build_app(
    config: TranslatorConfig,
    backend: Backend,
    admin: AdminBackend | None = None,
    stats: AdminBackend | None = None,
    spans: HttpSpans | None = None,
) -> ASGIApp:
    """Return the application: routes, and what every request passes through before them.

    `admin` serves every use of AdminService, `stats` the console's figures alone. Without `spans` requests
    have none.

    Raises:
        KeyFileError: a file of keys cannot be used.
    """
    return surround(build_routes(config, backend, admin, stats), config, backend, spans)


def build_routes(
    config: TranslatorConfig,
    backend: Backend,
    admin: AdminBackend | None,
    stats: AdminBackend | None,
    peers: Peers | None = None,
) -> Starlette:
    """Return the routes alone. `peers` are the translator's other processes, where it has some."""
    handlers = {
        ApiError: _answer_error,
        HTTPException: _answer_http_exception,
        ClientDisconnectedError: _answer_nobody,
        Exception: _answer_fault,
    }
    routed = Starlette(routes=ROUTES, exception_handlers=handlers)
    routed.router.redirect_slashes = False
    routed.state.config = config
    routed.state.backend = backend
    routed.state.admin = admin
    routed.state.stats = stats or admin
    needs_keys = bool(config.api_keys) or config.api_key_file is not None
    routed.state.openapi = openapi.OpenApi(ROUTES, _open_paths(config) if needs_keys else None)
    routed.state.responses = ResponseShelf(config, peers)
    return routed


def surround(
    routed: Starlette, config: TranslatorConfig, backend: Backend, spans: HttpSpans | None
) -> ASGIApp:
    """Return the routes behind all that requests pass through before them.

    Raises:
        KeyFileError: a file of keys cannot be used.
    """
    app: ASGIApp = RequestLimitMiddleware(FaultMiddleware(routed), config.max_body_bytes)
    app = _guarded(app, config)
    app = MetricsMiddleware(app, backend.metrics)
    app = AccessLogMiddleware(app)
    app = TraceMiddleware(app, spans)
    app = RequestIdMiddleware(app)
    if config.allowed_origins:
        app = CORSMiddleware(
            app,
            allow_origins=config.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _guarded(app: ASGIApp, config: TranslatorConfig) -> ASGIApp:
    keys = KeyRing(config.api_keys, config.api_key_file)
    operator_keys = KeyRing([secret.key for secret in config.admin_secrets], config.admin_api_key_file)
    if keys.is_open and not is_loopback(config.host):
        log.warning("ANYBODY who reaches %s may send requests: no key is set; see --api-key", config.host)
    return GateMiddleware(app, keys, operator_keys, _open_paths(config))


def _open_paths(config: TranslatorConfig) -> frozenset[str]:
    return HEALTH_PATHS | PAGE_PATHS | (METRICS_PATHS if config.open_metrics else frozenset())


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(_body(request, error), error.status, error.headers())


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path or method."""
    assert isinstance(error, HTTPException)
    method, path = request.method[:_MAX_SHOWN], request.scope["path"][:_MAX_SHOWN]
    message = {
        404: f"Unknown request URL: {method} {path}.",
        405: f"{method} is not allowed for {path}.",
    }.get(error.status_code, error.detail)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    answer = ApiError(error.status_code, message, code=code)
    headers = answer.headers() | dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_of(request))
    return Response(_body(request, answer), error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    """The methods that a path has; the router itself knows of those of its first route alone."""
    path = request.scope["route"].path
    return sorted({method for route in ROUTES if route.path == path for method in route.methods or ()})


def _body(request: Request, error: ApiError) -> bytes:
    return error_body(error, request_id_of(request), request.scope["path"])


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _answer_fault(request: Request, error: Exception) -> Response:
    """Answer for a fault of ours, which is logged with its traceback."""
    return await _answer_error(request, internal_error())

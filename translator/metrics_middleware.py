"""Measures every HTTP request, from its headers to the end of its response."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from translator.request_facts import NotedSend, method_of, route_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from translator.metrics import Metrics

# What a caller may make up must not become a label.
_UNAUTHORIZED = 401
_KEY_HEADERS = frozenset((b"authorization", b"x-api-key"))


class MetricsMiddleware:
    """Counts requests by route, method and status, and times them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        noted, method, metrics = NotedSend(send), method_of(scope), self._metrics
        with metrics.http_in_progress.labels(method).track_inprogress():
            try:
                await self._app(scope, receive, noted)
            finally:
                handler = route_of(scope)
                metrics.http_requests.labels(handler, method, f"{noted.status // 100}xx").inc()
                if noted.status == _UNAUTHORIZED:
                    metrics.auth_failures.labels("http", _what_is_wrong(scope)).inc()
                metrics.http_seconds.labels(handler, method).observe(time.monotonic() - began_s)


def _what_is_wrong(scope: Scope) -> str:
    shows_one = any(name in _KEY_HEADERS for name, _ in scope["headers"])
    return "invalid" if shows_one else "missing"

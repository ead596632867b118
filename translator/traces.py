"""The trace that the request being answered belongs to: its caller's, or one that begins here."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from translator.request_facts import PROBES, NotedSend, broken_by, route_of
from watch.trace_context import trace_context_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from translator.http_spans import HttpSpans
    from watch.trace_context import TraceContext

# Tasks that a request starts, such as a response in the background, take it with them.
_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def current_trace() -> TraceContext | None:
    """Return the context in which the request being answered here makes its calls."""
    return _current.get()


class TraceMiddleware:
    """Passes the caller's trace on, with a span of our own in between where spans are made."""

    def __init__(self, app: ASGIApp, spans: HttpSpans | None) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parent = _parent_of(scope)
        if self._spans is None or scope["path"] in PROBES:
            await self._serve(parent, scope, receive, send)
            return
        noted = NotedSend(send)
        span, context = self._spans.start(scope["method"], parent)
        try:
            await self._serve(context, scope, receive, noted)
        finally:
            self._spans.end(span, scope["method"], route_of(scope), noted.status, broken_by(scope))

    async def _serve(self, trace: TraceContext | None, scope: Scope, receive: Receive, send: Send) -> None:
        token = _current.set(trace)
        if trace is not None:
            scope.setdefault("state", {})["trace_id"] = trace.trace_name
        try:
            await self._app(scope, receive, send)
        finally:
            _current.reset(token)


def _parent_of(scope: Scope) -> TraceContext | None:
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return trace_context_of(headers)

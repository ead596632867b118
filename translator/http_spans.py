"""The span of an HTTP request. It says which route was asked for and how it was answered, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, Status, StatusCode

from translator.request_facts import METHODS
from watch.tracing import context_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from watch.trace_context import TraceContext
    from watch.tracing import Tracing

_OTHER = "_OTHER"
"""What OpenTelemetry calls a method that a caller made up."""


class HttpSpans:
    """Makes a span for each request, from its headers to the end of its response."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def start(self, method: str, parent: TraceContext | None) -> tuple[Span, TraceContext]:
        """Begin a request's span. Return it, and what is passed on."""
        span = self._tracing.start(_known(method), parent, SpanKind.SERVER)
        return span, context_of(span)

    def end(self, span: Span, method: str, route: str, status: int, broken_by: int | None) -> None:
        """End it, now that route and status are known, and what broke the response off after its headers."""
        method = _known(method)
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        end = status if broken_by is None else broken_by
        if end >= 400:
            span.set_attribute("error.type", str(end))
        if end >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _known(method: str) -> str:
    return method if method in METHODS else _OTHER

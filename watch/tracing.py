"""Spans, sent to a collector by OTLP from a thread of their own. Needs the packages of the extra `otel`.

Whoever ends a span only appends to a bounded queue. Where the collector is slow or gone, spans are dropped.
What is not said here is up to OpenTelemetry's own variables: headers, certificates, sampling, batches.
"""

from __future__ import annotations

import os
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from watch.collector import WatchedExporter
from watch.trace_context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

CLOSE_TIMEOUT_S = 2.0
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOLS = ("grpc", "http/protobuf")


class Tracing:
    """Makes the spans of one process, from the moment it is made until `close`."""

    def __init__(self, exporter: SpanExporter, service_name: str) -> None:
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service_name}))
        resource = resource.merge(Resource({SERVICE_VERSION: version("pagewire")}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pagewire", version("pagewire"))

    def start(
        self,
        name: str,
        parent: TraceContext | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        at_ns: int | None = None,
    ) -> Span:
        """Begin a span, now or in the past; without a parent it begins a trace."""
        context = trace.set_span_in_context(trace.INVALID_SPAN) if parent is None else _context(parent)
        return self._tracer.start_span(name, context, kind, attributes, start_time=at_ns)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what is left, as far as that takes no longer than `timeout_s`."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(timeout_s)


def open_tracing(endpoint: str, service_name: str) -> Tracing:
    """Send spans to a collector. Whether there is one is not asked."""
    return Tracing(WatchedExporter(exporter_to(endpoint), endpoint), service_name)


def context_of(span: Span) -> TraceContext:
    """What a span's children, here or in other processes, need to know of it."""
    context = span.get_span_context()
    state = context.trace_state.to_header()
    return TraceContext(context.trace_id, context.span_id, int(context.trace_flags) & 1, state)


def protocol() -> str:
    """How spans are sent, one of `PROTOCOLS` where the environment is right."""
    return next(filter(None, map(os.environ.get, PROTOCOL_VARIABLES)), "grpc")


def exporter_to(endpoint: str) -> SpanExporter:
    """What sends spans to a collector."""
    if protocol() == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint)


def _context(parent: TraceContext) -> Context:
    context = SpanContext(
        parent.trace_id,
        parent.span_id,
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header([parent.state]) if parent.state else None,
    )
    return trace.set_span_in_context(NonRecordingSpan(context))

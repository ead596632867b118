"""An OpenTelemetry collector over gRPC and HTTP that keeps what it is sent, or does not answer."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class SeenSpan:
    """A span as it arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty where it begins its trace."""
    kind: int
    begin_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: int
    """2 is an error."""


class Collector:
    """Owns two ports. While `holds` is set, exports arrive and are not answered."""

    def __init__(self) -> None:
        self.holds = threading.Event()
        self.released = threading.Event()
        self.has_arrived = threading.Event()
        self._changed = threading.Condition()
        self._spans: list[SeenSpan] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_service = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add_service(_Service(self), self._server)  # type: ignore[no-untyped-call]
        self.grpc_endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.http_endpoint = f"http://127.0.0.1:{self._http.server_address[1]}/v1/traces"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[SeenSpan]:
        """All that have arrived."""
        with self._changed:
            return list(self._spans)

    def wait_for(self, condition: Callable[[list[SeenSpan]], object]) -> list[SeenSpan]:
        """Wait until what has arrived is enough, and return it."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self._spans), TIMEOUT_S), self._spans
            return list(self._spans)

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        """Keep an export's spans."""
        self.has_arrived.set()
        if self.holds.is_set():
            self.released.wait(TIMEOUT_S)
        with self._changed:
            for resource in request.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += (_seen(span, service) for span in scope.spans)
            self._changed.notify_all()

    def close(self) -> None:
        """Give the ports back."""
        self.released.set()
        self._server.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self._collector.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _seen(span: Span, service: str) -> SeenSpan:
    return SeenSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)

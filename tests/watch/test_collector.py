"""A collector that goes and comes back is worth two lines, however many exports fail in between."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from processes import free_ports, wait_until

from watch.collector import WatchedExporter
from watch.tracing import Tracing, exporter_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

TALKATIVE = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Loggers belong to the process, so give them back."""
    yield
    for name in TALKATIVE:
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True


class ScriptedExporter(SpanExporter):
    """Succeeds or fails as it is told, with a word of the library's for each failure."""

    def __init__(self, *succeeds: bool) -> None:
        self._succeeds = deque(succeeds)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._succeeds.popleft():
            return SpanExportResult.SUCCESS
        logging.getLogger("opentelemetry.exporter.otlp.any").warning("it is %s", "not there")
        return SpanExportResult.FAILURE


SPANS: list[ReadableSpan] = [object()] * 3  # type: ignore[list-item] # nobody looks at them


def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    exporter = WatchedExporter(
        ScriptedExporter(True, False, False, False, True, True, False, True), "http://key@there:4317"
    )
    results = [exporter.export(SPANS) for _ in range(8)]
    assert results.count(SpanExportResult.SUCCESS) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "the collector at there:4317 takes no spans; they are lost until it does: it is not there",
        "the collector at there:4317 takes spans again; at least 9 were lost",
        "the collector at there:4317 takes no spans; they are lost until it does: it is not there",
        "the collector at there:4317 takes spans again; at least 3 were lost",
    ]


def test_a_bug_of_the_library_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    WatchedExporter(ScriptedExporter(), "http://there:4317")
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("opentelemetry.sdk._shared_internal").exception("while exporting")
    assert "RuntimeError: a bug" in caplog.text


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_that_is_not_there_is_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    exporter = WatchedExporter(exporter_to(endpoint), endpoint)
    tracing = Tracing(exporter, "pagewire-test")
    for number in range(100):
        tracing.start(f"span {number}", None).end()
    wait_until(lambda: exporter.num_lost >= 2, "two exports have failed")
    tracing.close(timeout_s=0.1)
    (record,) = caplog.records
    assert record.name == "watch.collector"
    assert record.getMessage().startswith(f"the collector at 127.0.0.1:{port} takes no spans; ")

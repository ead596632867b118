"""Spans on their way to a collector: there, slow, or gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from otlp_collector import Collector, collecting
from processes import free_ports

from watch.trace_context import TraceContext
from watch.tracing import Tracing, context_of, open_tracing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def make_spans(tracing: Tracing, count: int) -> None:
    for number in range(count):
        tracing.start(f"span {number}", None).end()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_span_and_its_child_arrive(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    tracing = open_tracing(
        collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint, "pagewire-test"
    )
    remote = TraceContext(7, 8)
    parent = tracing.start("parent", remote, attributes={"n": 1, "texts": ("a", "b")})
    child = tracing.start("child", context_of(parent), at_ns=1_000)
    child.end(2_000)
    parent.end()
    spans = {span.name: span for span in collector.wait_for(lambda spans: len(spans) == 2)}
    assert spans["parent"].service == "pagewire-test"
    assert spans["parent"].attributes == {"n": 1, "texts": ["a", "b"]}
    assert spans["parent"].parent_id == f"{8:016x}"
    assert spans["child"].parent_id == spans["parent"].span_id
    assert {span.trace_id for span in spans.values()} == {f"{7:032x}"}
    assert (spans["child"].begin_ns, spans["child"].end_ns) == (1_000, 2_000)
    tracing.close()


def test_the_operator_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chosen")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    tracing = open_tracing(collector.grpc_endpoint, "pagewire-test")
    make_spans(tracing, 1)
    (span,) = collector.wait_for(bool)
    assert span.service == "chosen"
    tracing.close()


def test_a_callers_decision_not_to_record_is_kept(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    tracing = open_tracing(collector.grpc_endpoint, "pagewire-test")
    unrecorded = tracing.start("unrecorded", TraceContext(7, 8, flags=0))
    assert context_of(unrecorded).flags == 0
    unrecorded.end()
    make_spans(tracing, 1)
    collector.wait_for(bool)
    tracing.close()
    assert [span.name for span in collector.spans] == ["span 0"]


def test_the_last_spans_are_sent_at_the_end(collector: Collector) -> None:
    tracing = open_tracing(collector.grpc_endpoint, "pagewire-test")
    make_spans(tracing, 3)
    tracing.close(timeout_s=60.0)
    assert len(collector.spans) == 3


def test_a_collector_that_does_not_answer_costs_spans_alone(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    collector.holds.set()
    tracing = open_tracing(collector.grpc_endpoint, "pagewire-test")
    make_spans(tracing, 8)
    assert collector.has_arrived.wait(60.0)
    make_spans(tracing, 1000)
    assert collector.spans == []
    tracing.close(timeout_s=0.1)  # it comes back although nothing was sent
    assert collector.spans == []
    collector.released.set()
    assert 8 <= len(collector.wait_for(bool)) <= 8 + 16


def test_a_collector_that_is_not_there_costs_spans_alone() -> None:
    (port,) = free_ports(1)
    tracing = open_tracing(f"http://127.0.0.1:{port}", "pagewire-test")
    make_spans(tracing, 10_000)
    tracing.close(timeout_s=0.1)

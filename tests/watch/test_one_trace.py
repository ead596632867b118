"""One trace from the HTTP request to the phases in the engine, as a real collector gets it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from calls import Caller, status_of
from fakes import END_ID, FakeEngine, FakeServer, saying, serve
from otlp_collector import Collector, SeenSpan, collecting

from pagewire.v1 import inference_pb2, inference_pb2_grpc
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.http_spans import HttpSpans
from watch.tracing import open_tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CANARY = "a-canary-that-nobody-else-says"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with collecting() as collector:
        yield collector


@contextlib.asynccontextmanager
async def calling(engine: FakeEngine, collector: Collector, **settings: Any) -> AsyncIterator[Caller]:
    async with (
        serve(engine, traces_endpoint=collector.grpc_endpoint, **settings) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        yield Caller(server, channel)


@contextlib.asynccontextmanager
async def translating(server: FakeServer, collector: Collector | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a translator in front of a fake server."""
    tracing = None if collector is None else open_tracing(collector.grpc_endpoint, "pagewire-translator")
    backend = Backend(server.target, 60.0)
    spans = None if tracing is None else HttpSpans(tracing)
    app = build_app(TranslatorConfig(grpc_target=server.target), backend, spans=spans)
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://translator", timeout=60.0
        ) as client:
            yield client
    finally:
        await backend.close()
        if tracing is not None:
            tracing.close(60.0)


async def arrived(collector: Collector, count: int) -> list[SeenSpan]:
    """The spans, once there are so many. The loop goes on meanwhile: a refusal's comes after its status."""
    return await asyncio.to_thread(collector.wait_for, lambda spans: len(spans) == count)


def by_name(spans: list[SeenSpan]) -> dict[str, SeenSpan]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), spans
    return found


def logged_traces(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the lines of both processes."""
    records = [record for record in caplog.records if record.name.endswith(".requests")]
    return [getattr(record, "fields")["trace_id"] for record in records]  # noqa: B009 - set by `extra`


def chat(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": CANARY}
    return {"model": "fake-model", "messages": [message], "max_tokens": 4, **fields}


async def test_http_grpc_and_engine_are_one_trace(collector: Collector) -> None:
    async with (
        serve(FakeEngine(saying(65)), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, collector) as client,
    ):
        body = chat(temperature=0.5, seed=7, stream=True, stop=["###"])
        response = await client.post("/v1/chat/completions", json=body, headers={"traceparent": TRACEPARENT})
        assert response.status_code == 200
        spans = by_name(await arrived(collector, 5))
    http, call = spans["POST /v1/chat/completions"], spans["chat fake-model"]
    assert {span.trace_id for span in spans.values()} == {TRACE}
    assert (http.parent_id, call.parent_id) == (PARENT, http.span_id)
    assert {spans[name].parent_id for name in ("queue", "prefill", "decode")} == {call.span_id}
    assert (http.service, call.service) == ("pagewire-translator", "pagewire-server")
    assert http.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    first_s = call.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_s < (call.end_ns - call.begin_ns) / 1e9
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pagewire",
        "gen_ai.request.model": "fake-model",
        "gen_ai.request.stream": True,
        "gen_ai.request.stop_sequences": ["###"],
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 1,
        "gen_ai.response.id": response.headers["x-request-id"],
        "gen_ai.response.model": "fake-model",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": call.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 4,
        "rpc.system": "grpc",
        "rpc.service": "pagewire.v1.InferenceService",
        "rpc.method": "StreamGenerate",
        "rpc.grpc.status_code": 0,
    }


@pytest.mark.check("S24")
async def test_no_span_holds_a_prompt_or_an_output(collector: Collector) -> None:
    async with (
        serve(FakeEngine(saying(*CANARY.encode())), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, collector) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat(max_tokens=30))
        assert CANARY in response.text
        spans = await arrived(collector, 5)
    assert CANARY not in repr(spans)


async def test_the_phases_follow_one_another(collector: Collector) -> None:
    async with calling(FakeEngine(saying(65)), collector) as caller:
        await caller.generate(inference_pb2.GenerationSpec(text="hi"))
        spans = by_name(await arrived(collector, 4))
    call = spans["text_completion fake-model"]
    queue, prefill, decode = (spans[name] for name in ("queue", "prefill", "decode"))
    assert call.begin_ns == queue.begin_ns < queue.end_ns == prefill.begin_ns
    assert prefill.begin_ns <= prefill.end_ns == decode.begin_ns <= decode.end_ns <= call.end_ns
    assert call.parent_id == ""


async def test_a_refusal_says_why_and_has_no_phases(collector: Collector) -> None:
    async with calling(FakeEngine(), collector) as caller:
        await status_of(
            caller.generate(inference_pb2.GenerationSpec(model="no\nsuch" + "x" * 999, text="hi"))
        )
        caller.engine.not_ready_reason = "gone"
        await status_of(caller.generate(inference_pb2.GenerationSpec(text="hi")))
        unknown, lost = await arrived(collector, 2)
    assert len(unknown.attributes["gen_ai.request.model"]) == 128
    assert (unknown.attributes["rpc.grpc.status_code"], unknown.status) == (5, 0)
    assert unknown.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert (lost.attributes["error.type"], lost.status) == ("NOT_READY", 2)


def reached(engine: FakeEngine, phase: str) -> None:
    """Let the engine bring every live sequence as far as that."""
    if phase in ("prefill", "decode"):
        engine.admit()
    if phase == "decode":
        engine.step()


PHASES = ("queue", "prefill", "decode")


async def phases_of(collector: Collector, num_phases: int) -> tuple[SeenSpan, list[SeenSpan]]:
    """A failed call and its phases, which end in the failure and nowhere else."""
    spans = by_name(await arrived(collector, 1 + num_phases))
    call = spans.pop("text_completion fake-model")
    assert set(spans) == set(PHASES[:num_phases])
    phases = [spans[name] for name in PHASES[:num_phases]]
    assert {span.parent_id for span in phases} == {call.span_id}
    for before, after in itertools.pairwise(phases):
        assert call.begin_ns <= before.begin_ns <= before.end_ns == after.begin_ns
        assert (before.attributes, before.status) == ({}, 0)
    last = phases[-1]
    assert abs(last.end_ns - call.end_ns) < 1000  # both are rounded
    assert last.attributes == {"error.type": call.attributes["error.type"]}
    assert last.status == call.status
    return call, phases


@pytest.mark.parametrize("num_phases", [1, 2, 3])
async def test_a_lost_engine_ends_the_phase_that_was_reached(collector: Collector, num_phases: int) -> None:
    async with calling(FakeEngine(saying(65), manual=True), collector) as caller:
        stream = caller.stream(inference_pb2.GenerationSpec(text="hi"))
        await caller.engine.until(num_live=1)
        reached(caller.engine, PHASES[num_phases - 1])
        if num_phases > 1:
            await stream.read()  # `started`
        if num_phases > 2:
            await stream.read()
        caller.engine.crash()
        await status_of(stream)
        call, _ = await phases_of(collector, num_phases)
    assert (call.attributes["error.type"], call.status) == ("ENGINE_UNAVAILABLE", 2)


@pytest.mark.parametrize("num_phases", [1, 3])
async def test_a_caller_that_leaves_ends_the_phase_that_was_reached(
    collector: Collector, num_phases: int
) -> None:
    async with calling(FakeEngine(saying(65), manual=True), collector) as caller:
        stream = caller.stream(inference_pb2.GenerationSpec(text="hi"))
        await caller.engine.until(num_live=1)
        reached(caller.engine, PHASES[num_phases - 1])
        if num_phases > 1:
            await stream.read()
            await stream.read()
        stream.cancel()
        call, _ = await phases_of(collector, num_phases)
    assert (call.attributes["error.type"], call.status) == ("CALLER_GONE", 0)
    assert call.attributes["gen_ai.usage.output_tokens"] == (num_phases > 1)


async def test_a_stream_that_breaks_off_is_an_error_though_its_status_was_none(collector: Collector) -> None:
    engine = FakeEngine(saying(65), manual=True)
    async with (
        serve(engine, traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, collector) as client,
    ):
        patience = {"X-Request-Timeout": "3"}
        asking = client.post("/v1/chat/completions", json=chat(stream=True), headers=patience)
        answer = asyncio.create_task(asking)
        await engine.until(num_live=1)
        reached(engine, "decode")
        assert (await answer).status_code == 200
        http = by_name(await arrived(collector, 5))["POST /v1/chat/completions"]
    assert http.attributes["http.response.status_code"] == 200
    assert (http.attributes["error.type"], http.status) == ("504", 2)


async def test_who_waited_in_vain_has_waited(collector: Collector) -> None:
    async with calling(FakeEngine(manual=True), collector, queue_timeout_s=0.05) as caller:
        await status_of(caller.generate(inference_pb2.GenerationSpec(text="hi")))
        call, (queue,) = await phases_of(collector, 1)
    assert call.attributes["error.type"] == "QUEUE_TIMEOUT"
    assert queue.end_ns - queue.begin_ns >= 0.05e9


async def test_a_deadline_ends_the_phase_that_was_reached(collector: Collector) -> None:
    async with calling(FakeEngine(saying(65), manual=True), collector) as caller:
        stream = caller.stream(inference_pb2.GenerationSpec(text="hi"), timeout=3)
        await caller.engine.until(num_live=1)
        reached(caller.engine, "decode")
        error = await status_of(stream)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call, _ = await phases_of(collector, 3)
    assert (call.attributes["error.type"], call.status) == ("DEADLINE_PASSED", 2)


async def test_embeddings_have_a_span(collector: Collector) -> None:
    async with calling(FakeEngine(), collector) as caller:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(caller.channel)
        await stub.Embed(inference_pb2.EmbedRequest(inputs=[inference_pb2.EmbedInput(text="ab")]))
        (span,) = await arrived(collector, 1)
    assert span.name == "embeddings fake-model"
    assert span.attributes["gen_ai.usage.input_tokens"] == 2
    assert "gen_ai.usage.output_tokens" not in span.attributes


async def test_short_questions_and_probes_have_none(collector: Collector) -> None:
    async with (
        serve(FakeEngine(saying(END_ID)), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, collector) as client,
    ):
        for path in ("/health", "/health/ready", "/metrics", "/v1/models"):
            assert (await client.get(path)).status_code == 200
        await client.request("BREW", "/nothing/here")
        names = [span.name for span in await arrived(collector, 2)]
    assert names == ["GET /v1/models", "_OTHER unknown"]


async def test_without_spans_the_callers_trace_goes_on_and_is_logged(
    caplog: pytest.LogCaptureFixture, collector: Collector
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        serve(FakeEngine(saying(65)), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, None) as client,
    ):
        headers = {"traceparent": TRACEPARENT, "tracestate": "a=b"}
        response = await client.post("/v1/chat/completions", json=chat(), headers=headers)
        assert response.status_code == 200, response.text
        spans = by_name(await arrived(collector, 4))
    assert spans["chat fake-model"].parent_id == PARENT
    lines = [
        getattr(record, "fields", None) for record in caplog.records if record.name.endswith(".requests")
    ]
    assert [line["trace_id"] for line in lines if line] == [TRACE, TRACE]


async def test_a_trace_that_begins_here_is_logged(
    caplog: pytest.LogCaptureFixture, collector: Collector
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        serve(FakeEngine(saying(65)), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, collector) as client,
    ):
        await client.post("/v1/chat/completions", json=chat())
        spans = await arrived(collector, 5)
    lines = [
        getattr(record, "fields", None) for record in caplog.records if record.name.endswith(".requests")
    ]
    assert {line["trace_id"] for line in lines if line} == {span.trace_id for span in spans}


async def test_a_dead_collector_costs_requests_nothing(collector: Collector) -> None:
    collector.holds.set()
    async with (
        serve(FakeEngine(saying(65)), traces_endpoint=collector.grpc_endpoint) as server,
        translating(server, None) as client,
    ):
        for _ in range(50):
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        assert collector.spans == []

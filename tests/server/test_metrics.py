"""What Prometheus is told: figures that are true, under names that follow its rules."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
import pytest
from calls import status_of
from exposition import Scrape, problems
from fakes import END_ID, FakeEngine, FakeServer, saying, serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Gauge, generate_latest

import server.rpc
from engine.messages import FinishReason, RequestOutput, StepWork
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from server.engine_failure import FailureReason
from server.listeners import PortError
from server.metrics import Metrics
from server.metrics_port import MetricsPort
from server.request_record import CallEnd, RequestRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MODEL = {"model_name": "fake-model", "engine": "0"}
# What Gateway API's inference extension, and boards made for vLLM, look for.
VLLM = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
    "vllm:request_success_total", "vllm:num_preemptions_total", "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total", "vllm:time_to_first_token_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket", "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket", "vllm:request_inference_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket", "vllm:request_generation_tokens_bucket",
    "vllm:request_params_n_bucket", "vllm:request_params_max_tokens_bucket", "vllm:lora_requests_info",
    "vllm:inter_token_latency_seconds_bucket", "vllm:iteration_tokens_total_bucket",
    "vllm:prompt_tokens_cached_total",
}  # fmt: skip
OWN = {
    "pagewire:build_info", "pagewire:ready", "pagewire:live_requests", "pagewire:live_grammar_compilations",
    "pagewire:engine_restarts_total", "pagewire:engine_steps_total", "pagewire:engine_last_step_age_seconds",
    "pagewire:kv_blocks", "pagewire:sequences_total", "pagewire:request_failures_total",
    "pagewire:engine_step_seconds_total", "pagewire:event_loop_lag_seconds", "pagewire:stream_write_stalled",
    "pagewire:grammar_compile_seconds_bucket",
}  # fmt: skip


class Watched:
    """A server over a fake engine, and what it tells Prometheus."""

    def __init__(self, server: FakeServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.engine = server.engine
        self.channel = channel
        self._registry = server.services.metrics.registry
        self._stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    def text(self) -> str:
        return generate_latest(self._registry).decode()

    def scrape(self) -> Scrape:
        return Scrape(self.text())

    async def until(self, value: float, name: str, **labels: str) -> None:
        """Wait until a figure has this value: the end of a call is counted after its caller hears of it."""
        async with asyncio.timeout(60):
            while self.scrape().value(name, **labels) != value:  # noqa: ASYNC110 - a figure tells nobody
                await asyncio.sleep(0.01)

    def stream(self, max_tokens: int = 8, **call: Any) -> Any:
        spec = inference_pb2.GenerationSpec(
            text="hello", stopping=inference_pb2.Stopping(max_tokens=max_tokens)
        )
        return self._stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec), **call)

    def generate(self, *, n: int = 1, max_tokens: int = 8, **fields: Any) -> Any:
        spec = inference_pb2.GenerationSpec(
            text="hello",
            sampling=inference_pb2.Sampling(n=n),
            stopping=inference_pb2.Stopping(max_tokens=max_tokens),
            **fields,
        )
        return self._stub.Generate(inference_pb2.GenerateRequest(spec=spec))

    def embed(self, *texts: str) -> Any:
        inputs = [inference_pb2.EmbedInput(text=text) for text in texts]
        return self._stub.Embed(inference_pb2.EmbedRequest(inputs=inputs))


@contextlib.asynccontextmanager
async def watching(engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[Watched]:
    async with (
        serve(engine or FakeEngine(saying(65)), **settings) as served,
        grpc.aio.insecure_channel(served.target) as channel,
    ):
        yield Watched(served, channel)


async def test_every_name_is_there_and_follows_the_rules() -> None:
    async with watching(max_adapters=4, max_loras=2) as watched:
        watched.engine.last_step_age_s = 0.5
        await watched.generate()
        await status_of(watched.generate(model="none"))
        assert problems(watched.text()) == []
        scrape = watched.scrape()
        assert scrape.names >= VLLM | OWN
        assert all(len(scrape.labels(name)) <= 50 for name in scrape.names)


async def test_finished_requests_are_counted_exactly() -> None:
    async with watching() as watched:
        for _ in range(5):
            await watched.generate(max_tokens=7)
        await watched.generate(n=3, max_tokens=2)
        scrape = watched.scrape()
        assert scrape.value("vllm:request_success_total", finished_reason="length", **MODEL) == 8
        assert scrape.value("vllm:request_generation_tokens_sum", **MODEL) == 5 * 7 + 3 * 2
        assert scrape.value("vllm:request_params_n_sum", **MODEL) == 8
        assert scrape.value("vllm:request_params_max_tokens_sum", **MODEL) == 5 * 7 + 2
        for name in (
            "e2e_request_latency_seconds", "time_to_first_token_seconds", "request_queue_time_seconds",
            "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
            "request_inference_time_seconds", "request_time_per_output_token_seconds",
        ):  # fmt: skip
            assert scrape.value(f"vllm:{name}_count", **MODEL) == 6, name
        parts = ("queue", "prefill", "decode")
        total_s = sum(scrape.value(f"vllm:request_{part}_time_seconds_sum", **MODEL) for part in parts)
        assert 0 < total_s <= scrape.value("vllm:e2e_request_latency_seconds_sum", **MODEL)


async def test_what_has_not_happened_yet_is_zero() -> None:
    """Or an alarm would not see the first of it: where a series begins, nothing increases."""
    async with watching() as watched:
        scrape = watched.scrape()
        failures = scrape.labels("pagewire:request_failures_total")
        for method in ("Generate", "StreamGenerate", "Embed"):
            for reason in ("INTERNAL", "NUMERICAL_ERROR"):
                assert {"method": method, "code": "INTERNAL", "reason": reason} in failures
        assert MODEL in scrape.labels("vllm:corrupted_requests_total")
        assert MODEL | {"reason": "queue_full"} in scrape.labels("vllm:admission_rejections_total")
        assert MODEL | {"cause": "engine_lost"} in scrape.labels("pagewire:aborts_total")


async def test_who_stops_watching_has_aborted_nothing() -> None:
    async with watching() as watched:
        health: Any = health_pb2_grpc.HealthStub(watched.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
        failure = {"method": "Watch", "code": "CANCELLED", "reason": "CALLER_GONE"}
        await watched.until(1, "pagewire:request_failures_total", **failure)
        assert watched.scrape().value("pagewire:aborts_total", cause="caller_gone", **MODEL) == 0


def test_a_question_that_is_refused_is_a_rejection() -> None:
    metrics = Metrics()
    metrics.begin_at_zero("fake-model")
    record = RequestRecord()
    end = CallEnd("Tokenize", "r-1", "", "RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.1, record, None)
    metrics.observe(end, "fake-model")
    scrape = Scrape(generate_latest(metrics.registry).decode())
    assert scrape.value("vllm:admission_rejections_total", reason="queue_full", **MODEL) == 1


async def test_a_stop_and_an_embedding_are_counted() -> None:
    async with watching(FakeEngine(saying(65, END_ID))) as watched:
        await watched.generate()
        await watched.embed("a", "bc")
        scrape = watched.scrape()
        assert scrape.value("vllm:request_success_total", finished_reason="stop", **MODEL) == 2
        assert scrape.value("vllm:request_prompt_tokens_count", **MODEL) == 2
        assert scrape.value("vllm:request_generation_tokens_count", **MODEL) == 1


async def test_failures_are_counted_by_cause() -> None:
    async with watching(max_queued_requests=0) as watched:
        await status_of(watched.generate())
        await status_of(watched.generate())
        failure = {"method": "Generate", "code": "RESOURCE_EXHAUSTED", "reason": "QUEUE_FULL"}
        await watched.until(2, "pagewire:request_failures_total", **failure)
        await watched.until(2, "vllm:admission_rejections_total", reason="queue_full", **MODEL)
        watched.engine.not_ready_reason = "gone"
        await status_of(watched.generate())
        await watched.until(1, "vllm:admission_rejections_total", reason="not_ready", **MODEL)
        assert not watched.scrape().labels("vllm:request_success_total")


async def test_aborts_are_counted_by_cause() -> None:
    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        engine = watched.engine
        aborts = "pagewire:aborts_total"
        call = watched.stream()
        await engine.until(1)
        call.cancel()
        await watched.until(1, aborts, cause="caller_gone", **MODEL)
        num_asked, timeout_s = len(engine.requests), 0.2
        while len(engine.requests) == num_asked:  # it may pass on the way, on a slow machine
            error = await status_of(watched.stream(timeout=timeout_s))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            timeout_s *= 2
        await watched.until(1, aborts, cause="deadline", **MODEL)
        await engine.until(0)
        call = watched.stream()
        await engine.until(1)
        engine.finish(engine.live.pop(), FinishReason.FAILED, "numerical_error")
        assert (await status_of(call)).code() is grpc.StatusCode.INTERNAL
        await watched.until(1, "vllm:corrupted_requests_total", **MODEL)
        call = watched.stream()
        await engine.until(1)
        engine.crash()
        assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        await watched.until(1, aborts, cause="engine_lost", **MODEL)
        scrape = watched.scrape()
        assert sum(scrape.value(aborts, **labels) for labels in scrape.labels(aborts)) == 3


async def test_wrong_keys_are_counted_by_listener() -> None:
    keys = KeyRing([parse_key("right")])
    async with watching(keys=keys, admin_keys=keys) as watched:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "Bearer right"),)):
            call = watched.stream(metadata=metadata)
            while await answer(call) is not None:
                pass
        async with grpc.aio.insecure_channel(watched.server.admin_target) as channel:
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            await status_of(stub.GetStats(admin_pb2.GetStatsRequest()))
        for listener, reason in (("public", "missing"), ("public", "invalid"), ("admin", "missing")):
            await watched.until(1, "pagewire:auth_failures_total", listener=listener, reason=reason)


async def answer(call: Any) -> Any:
    """The next message of a stream; None where it has ended, well or not."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return None if message is grpc.aio.EOF else message


async def test_the_queue_ends_when_the_first_step_begins() -> None:
    """Scenario: a step that takes a second. Result: the queue's time is that before it, not with it."""
    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        call = watched.stream(max_tokens=1)
        await watched.engine.until(1)
        (sequence,) = watched.engine._live.values()
        began_s = time.monotonic()
        await asyncio.sleep(1.0)
        sequence.admitted = True
        first = RequestOutput(sequence.request.request_id, num_cached_tokens=0, began_s=began_s)
        sequence.delivery.put(first)
        watched.engine.step()
        while await answer(call) is not None:
            pass
        scrape = watched.scrape()
        queue_s, prefill_s, first_s = (
            scrape.value(f"vllm:{name}_seconds_sum", **MODEL)
            for name in ("request_queue_time", "request_prefill_time", "time_to_first_token")
        )
        assert prefill_s >= 1.0
        assert abs(queue_s + prefill_s - first_s) < 1e-6


async def test_what_steps_take_and_bring() -> None:
    async with watching() as watched:
        await watched.generate(n=2, max_tokens=5)
        for num_tokens in (3, 70, 0):
            watched.engine.steps.add(StepWork(num_tokens, 0.25, 0.5))
        watched.engine.steps.add(None)
        assert "engine_device_busy" not in watched.text()  # a CPU is its own host
        for _ in range(2):
            watched.engine.steps.add(StepWork(0, 0.0, 0.0, busy_s=0.5))
        scrape = watched.scrape()
        assert scrape.value("pagewire:engine_device_busy_seconds_total", **MODEL) == 1.0
        assert scrape.value("vllm:inter_token_latency_seconds_count", **MODEL) == 2 * 4
        assert scrape.value("vllm:iteration_tokens_total_count", **MODEL) == 2
        assert scrape.value("vllm:iteration_tokens_total_sum", **MODEL) == 73
        assert scrape.value("pagewire:engine_step_seconds_total", part="host", **MODEL) == 0.75
        assert scrape.value("pagewire:engine_step_seconds_total", part="device", **MODEL) == 1.5


class HeldUp:
    """A context whose writes wait, as those do whose reader does not read."""

    def __init__(self, context: Any, taken: asyncio.Event) -> None:
        self._context = context
        self._taken = taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._taken.wait()
        await self._context.write(message)


async def test_a_stream_that_nobody_reads_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.rpc, "STALLED_AFTER_S", 0.0)
    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        call = watched.stream(max_tokens=100)
        await watched.engine.until(1)
        (ticket,) = watched.server.services.admission._tickets
        taken = asyncio.Event()
        monkeypatch.setattr(ticket.call, "_context", HeldUp(ticket.call._context, taken))
        watched.engine.step()
        await watched.until(1, "pagewire:stream_write_stalled")
        taken.set()
        await watched.until(0, "pagewire:stream_write_stalled")
        call.cancel()


async def test_an_open_call_runs_or_waits() -> None:
    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        call = watched.generate()
        await watched.engine.until(1)
        scrape = watched.scrape()
        assert scrape.value("vllm:num_requests_waiting", **MODEL) == 1
        assert scrape.value("pagewire:live_requests") == 1
        call.cancel()


async def test_an_open_call_never_counts_as_nothing() -> None:
    def load() -> tuple[float, float]:
        scrape = watched.scrape()
        return tuple(scrape.value(f"vllm:num_requests_{which}", **MODEL) for which in ("running", "waiting"))  # type: ignore[return-value]

    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        call = watched.stream(max_tokens=2)
        await watched.engine.until(1)
        assert load() == (0, 1)
        watched.engine.admit()
        assert (await call.read()).HasField("started")
        assert load() == (1, 0)
        watched.engine.step()
        assert (await call.read()).HasField("delta")
        assert load() == (1, 0)
        watched.engine.step()  # the engine is done with it
        assert not watched.engine.live
        assert load() == (1, 0)
        while await answer(call) is not None:
            pass
        await watched.until(0, "vllm:num_requests_running", **MODEL)


async def test_counters_are_what_a_thousand_callers_saw_while_others_scrape() -> None:
    names = ("fake-model", *(f"no-such-model-{number}" for number in range(99)))
    seen: Counter[str] = Counter()
    num_scrapes = 0

    async def ask(watched: Watched, number: int) -> None:
        model, max_tokens, n = names[number % 7 and number % 100], 1 + number % 5, 1 + number % 3
        try:
            response = await watched.generate(model=model, max_tokens=max_tokens, n=n)
        except grpc.aio.AioRpcError as error:
            seen[error.code().name] += 1
            return
        usage = response.usage
        seen["requests"] += 1
        seen["choices"] += len(response.choices)
        seen["tokens"] += usage.num_completion_tokens
        seen["prompt tokens"] += usage.num_prompt_tokens
        assert all(len(choice.text) == max_tokens for choice in response.choices)

    async def work(watched: Watched, numbers: Iterator[int]) -> None:
        for number in numbers:
            await ask(watched, number)

    def scrape_on(watched: Watched, stop: threading.Event) -> None:
        nonlocal num_scrapes
        while not stop.is_set():
            assert problems(watched.text()) == []
            num_scrapes += 1

    async with watching() as watched:
        stop = threading.Event()
        scraping = asyncio.create_task(asyncio.to_thread(scrape_on, watched, stop))
        numbers = iter(range(1000))
        await asyncio.gather(*(work(watched, numbers) for _ in range(20)))
        stop.set()
        await scraping
        failure = {"method": "Generate", "code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND"}
        await watched.until(seen["NOT_FOUND"], "pagewire:request_failures_total", **failure)
        scrape = watched.scrape()
    assert num_scrapes
    assert seen["requests"] + seen["NOT_FOUND"] == 1000
    assert seen["requests"] > 100 < seen["NOT_FOUND"]
    assert scrape.value("vllm:request_success_total", finished_reason="length", **MODEL) == seen["choices"]
    assert scrape.value("vllm:request_generation_tokens_sum", **MODEL) == seen["tokens"]
    assert scrape.value("vllm:request_prompt_tokens_sum", **MODEL) == seen["prompt tokens"]
    gaps = scrape.value("vllm:inter_token_latency_seconds_count", **MODEL)
    assert gaps == seen["tokens"] - seen["choices"]
    for name in ("e2e_request_latency", "time_to_first_token", "request_queue_time", "request_decode_time"):
        assert scrape.value(f"vllm:{name}_seconds_count", **MODEL) == seen["requests"], name
    assert all(len(scrape.labels(name)) <= 50 for name in scrape.names)


async def test_gauges_are_those_of_the_moment() -> None:
    async with watching() as watched:
        engine = watched.engine
        engine.stats = msgspec.structs.replace(
            engine.stats, num_running=3, num_free_blocks=30, num_owned_blocks=16, num_cached_blocks=18,
            num_preemptions=2, num_prefix_query_tokens=10, num_prefix_hit_tokens=4,
        )  # fmt: skip
        engine.restarts = {FailureReason.STUCK: 1}
        scrape = watched.scrape()
        assert scrape.value("vllm:num_requests_running", **MODEL) == 3
        assert scrape.value("vllm:kv_cache_usage_perc", **MODEL) == 0.25
        assert scrape.value("vllm:num_preemptions_total", **MODEL) == 2
        assert scrape.value("vllm:prefix_cache_hits_total", **MODEL) == 4
        assert scrape.value("pagewire:kv_blocks", state="cached", **MODEL) == 18
        for reason in FailureReason:
            num_restarts = 1 if reason is FailureReason.STUCK else 0
            assert scrape.value("pagewire:engine_restarts_total", reason=reason) == num_restarts
        assert scrape.value("pagewire:ready") == 1
        (config,) = scrape.labels("vllm:cache_config_info")
        assert config == MODEL | {"block_size": "4", "num_gpu_blocks": "64"}
        engine.crash()
        assert watched.scrape().value("pagewire:ready") == 0


def test_the_rules_can_be_broken() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:latency_ms", "Latency.", registry=registry)
    Gauge("queueGauge", "", registry=registry)
    found = " ".join(problems(generate_latest(registry).decode()))
    assert "vllm:latency_ms: the name holds a unit" in found
    assert "queueGauge: no help" in found
    assert "expected small letters" in found


def asking_as_prometheus(url: str) -> urllib.request.Request:
    forms = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    return urllib.request.Request(url, headers={"accept": forms})


def test_the_port_serves_the_registry_and_is_given_back() -> None:
    registry = CollectorRegistry()
    Gauge("answer", "Of everything.", registry=registry).set(42)
    Gauge("vllm:colon", "As Prometheus itself asks.", ("a",), registry=registry).labels("b").set(1)
    port = MetricsPort(registry, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{port.port}"
    with urllib.request.urlopen(asking_as_prometheus(f"{url}/metrics"), timeout=10) as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        scrape = Scrape(response.read().decode())
        assert (scrape.value("answer"), scrape.value("vllm:colon", a="b")) == (42, 1)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/other", timeout=10)
    with pytest.raises(PortError, match=rf"--metrics-port {port.port}: cannot listen"):
        MetricsPort(registry, "127.0.0.1", port.port)
    port.close()
    MetricsPort(registry, "127.0.0.1", port.port).close()

"""What Prometheus is told: figures that are true, under names that follow its rules."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
import pytest
from calls import status_of
from exposition import Scrape, problems
from fakes import END_ID, FakeEngine, FakeServer, saying, serve
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from pagewire.v1 import inference_pb2, inference_pb2_grpc
from server.listeners import PortError
from server.metrics_port import MetricsPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
}  # fmt: skip
OWN = {
    "pagewire:build_info", "pagewire:ready", "pagewire:live_requests", "pagewire:live_grammar_compilations",
    "pagewire:engine_restarts_total", "pagewire:engine_steps_total", "pagewire:engine_last_step_age_seconds",
    "pagewire:kv_blocks", "pagewire:sequences_total", "pagewire:request_failures_total",
}  # fmt: skip


class Watched:
    """A server over a fake engine, and what it tells Prometheus."""

    def __init__(self, server: FakeServer, channel: grpc.aio.Channel) -> None:
        self.engine = server.engine
        self._registry = server.services.metrics.registry
        self._stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    def text(self) -> str:
        return generate_latest(self._registry).decode()

    def scrape(self) -> Scrape:
        return Scrape(self.text())

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
        serve(engine or FakeEngine(saying(65)), **settings) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        yield Watched(server, channel)


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
        scrape = watched.scrape()
        assert scrape.value("pagewire:request_failures_total", **failure) == 2
        assert not scrape.labels("vllm:request_success_total")


async def test_an_open_call_runs_or_waits() -> None:
    async with watching(FakeEngine(saying(65), manual=True)) as watched:
        call = watched.generate()
        await watched.engine.until(1)
        scrape = watched.scrape()
        assert scrape.value("vllm:num_requests_waiting", **MODEL) == 1
        assert scrape.value("pagewire:live_requests") == 1
        call.cancel()


async def test_gauges_are_those_of_the_moment() -> None:
    async with watching() as watched:
        engine = watched.engine
        engine.stats = msgspec.structs.replace(
            engine.stats, num_running=3, num_free_blocks=30, num_owned_blocks=16, num_cached_blocks=18,
            num_preemptions=2, num_prefix_query_tokens=10, num_prefix_hit_tokens=4,
        )  # fmt: skip
        engine.num_restarts = 1
        scrape = watched.scrape()
        assert scrape.value("vllm:num_requests_running", **MODEL) == 3
        assert scrape.value("vllm:kv_cache_usage_perc", **MODEL) == 0.25
        assert scrape.value("vllm:num_preemptions_total", **MODEL) == 2
        assert scrape.value("vllm:prefix_cache_hits_total", **MODEL) == 4
        assert scrape.value("pagewire:kv_blocks", state="cached", **MODEL) == 18
        assert scrape.value("pagewire:engine_restarts_total") == 1
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

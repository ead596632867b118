"""What this process measures, for Prometheus. Names are vLLM's where they mean the same.

The engine's own figures belong to the server; here is what a request looks like from outside.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from pagewire.v1 import inference_pb2
from translator.access_log import current_record

if TYPE_CHECKING:
    from pagewire.v1.inference_pb2 import Delta, Finished, Started
    from translator.access_log import AccessRecord
    from watch.loop_lag import LoopLag

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(
    float(tokens)
    for decade in (1, 10, 100, 1_000, 10_000, 100_000)
    for tokens in (decade, 2 * decade, 5 * decade)
)

_FINISHED_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_TOOL_CALLS: "stop",
}


class Metrics:
    """The figures of one process."""

    def __init__(self, lag: LoopLag) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        route = ("handler", "method")
        self.http_requests = Counter(
            "http_requests", "HTTP requests answered.", (*route, "status"), registry=registry
        )
        self.http_seconds = Histogram(
            "http_request_duration_seconds",
            "From a request's headers to the end of its response.",
            route,
            buckets=_SECONDS,
            registry=registry,
        )
        self.http_in_progress = Gauge(
            "http_requests_inprogress", "HTTP requests being answered.", ("method",), registry=registry
        )
        self.auth_failures = Counter(
            "pagewire:auth_failures",
            "Requests that showed no key that is in force.",
            ("listener", "reason"),
            registry=registry,
        )
        for reason in ("missing", "invalid"):
            self.auth_failures.labels("http", reason)
        Gauge(
            "pagewire:event_loop_lag_seconds",
            "The worst delay of the translator's event loop in the last 10 to 20 seconds.",
            registry=registry,
        ).set_function(lambda: lag.seconds)
        model = ("model_name",)
        self.prompt_tokens = Counter(
            "vllm:prompt_tokens", "Prompt tokens of admitted requests.", model, registry=registry
        )
        self.cached_tokens = Counter(
            "vllm:prompt_tokens_cached", "Those found in the prefix cache.", model, registry=registry
        )
        self.generation_tokens = Counter(
            "vllm:generation_tokens", "Generated tokens.", model, registry=registry
        )
        self.finished = Counter(
            "vllm:request_success",
            "Choices that came to their end, by what ended them.",
            (*model, "finished_reason"),
            registry=registry,
        )
        self.failed = Counter(
            "pagewire:request_failures",
            "Generations that were refused, failed or given up, by HTTP status.",
            ("status",),
            registry=registry,
        )
        self.first_token_seconds = _seconds(
            registry, "vllm:time_to_first_token_seconds", "From arrival to the first token."
        )
        self.total_seconds = _seconds(
            registry, "vllm:e2e_request_latency_seconds", "From arrival to the end."
        )
        self.token_seconds = Histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a token after the first.",
            model,
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.request_prompt_tokens = _tokens(
            registry, "vllm:request_prompt_tokens", "Prompt tokens of a request."
        )
        self.request_generation_tokens = _tokens(
            registry, "vllm:request_generation_tokens", "Generated tokens of a request."
        )

    def measure(self) -> GenerationMeter:
        """Return what measures one generation, from now on."""
        return GenerationMeter(self, current_record())


def _seconds(registry: CollectorRegistry, name: str, what: str) -> Histogram:
    return Histogram(name, what, ("model_name",), buckets=_SECONDS, registry=registry)


def _tokens(registry: CollectorRegistry, name: str, what: str) -> Histogram:
    return Histogram(name, what, ("model_name",), buckets=_TOKENS, registry=registry)


class GenerationMeter:
    """Measures one generation."""

    def __init__(self, metrics: Metrics, record: AccessRecord) -> None:
        self._metrics = metrics
        self._record = record
        self._arrived_s = time.monotonic()
        self._first_s: float | None = None
        self._model = ""
        self._num_tokens = 0
        self._has_ended = False

    def start(self, started: Started) -> None:
        """The server has admitted it."""
        self._model = started.model
        self._record.add_prompt(started.model, started.num_prompt_tokens, started.num_cached_tokens)
        self._metrics.prompt_tokens.labels(self._model).inc(started.num_prompt_tokens)
        self._metrics.cached_tokens.labels(self._model).inc(started.num_cached_tokens)
        self._metrics.request_prompt_tokens.labels(self._model).observe(started.num_prompt_tokens)
        self._generation_tokens = self._metrics.generation_tokens.labels(self._model)

    def add(self, delta: Delta) -> None:
        """There is new output."""
        num_tokens = sum(choice.num_tokens for choice in delta.choices)
        self._num_tokens += num_tokens
        self._generation_tokens.inc(num_tokens)
        if self._first_s is None and num_tokens:
            self._first_s = time.monotonic()
            self._metrics.first_token_seconds.labels(self._model).observe(self._first_s - self._arrived_s)

    def finish(self, finished: Finished) -> None:
        """It has come to its end."""
        self._has_ended = True
        now_s = time.monotonic()
        self._record_output()
        for end in finished.choices:
            reason = _FINISHED_REASONS.get(end.finish_reason, "stop")
            self._metrics.finished.labels(self._model, reason).inc()
        self._metrics.total_seconds.labels(self._model).observe(now_s - self._arrived_s)
        self._metrics.request_generation_tokens.labels(self._model).observe(self._num_tokens)
        if self._first_s is not None and self._num_tokens > 1:
            each_s = (now_s - self._first_s) / (self._num_tokens - 1)
            self._metrics.token_seconds.labels(self._model).observe(each_s)

    def fail(self, status: int) -> None:
        """It will not come to its end, and its client hears of this status. The first cause counts."""
        if not self._has_ended:
            self._has_ended = True
            self._metrics.failed.labels(str(status)).inc()
            if self._model:
                self._record_output()

    def _record_output(self) -> None:
        first_s = None if self._first_s is None else self._first_s - self._arrived_s
        self._record.add_output(self._num_tokens, first_s)

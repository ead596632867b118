"""What the server counts of requests, for Prometheus. Names are vLLM's where they mean the same.

Nothing is observed for a token: a request's record is read once, at its end. What the engine knows is read by
`server.engine_collector` when it is asked for.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector

from server.request_record import WORK

if TYPE_CHECKING:
    from server.request_record import CallEnd, RequestRecord

ENGINE = "0"
"""vLLM's label for one of several engines. There is one."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(
    float(tokens)
    for decade in (1, 10, 100, 1_000, 10_000, 100_000)
    for tokens in (decade, 2 * decade, 5 * decade)
)
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MODEL = ("model_name", "engine")
# Calls to a tool are how such an output stops.
_FINISHED_REASONS = {"tool_calls": "stop"}

# Why calls fail by a fault of ours.
_FAULTS = ("INTERNAL", "NUMERICAL_ERROR")
_REJECTIONS = {"NOT_READY": "not_ready", "QUEUE_FULL": "queue_full", "TENANT_LIMIT": "tenant_limit"}
_ABORT_CAUSES = {
    "ABORTED_BY_OPERATOR": "operator",
    "CALLER_GONE": "caller_gone",
    "DEADLINE_PASSED": "deadline",
    "ENGINE_UNAVAILABLE": "engine_lost",
    "QUEUE_TIMEOUT": "queue_timeout",
    "REQUEST_LOST": "shutdown",
    "SLOW_READER": "slow_reader",
}


class Metrics:
    """The figures of one process. Adapters count as their base model; what callers make up is no label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._finished = Counter(
            "vllm:request_success",
            "Choices that came to their end, by what ended them.",
            (*_MODEL, "finished_reason"),
            registry=self.registry,
        )
        self._failed = Counter(
            "pagewire:request_failures",
            "Calls that were refused, failed or given up, by gRPC status and cause.",
            ("method", "code", "reason"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "vllm:admission_rejections",
            "Requests that were refused before they were looked at, by why.",
            (*_MODEL, "reason"),
            registry=self.registry,
        )
        self._corrupted = Counter(
            "vllm:corrupted_requests",
            "Requests that failed because the model computed values that are not numbers.",
            _MODEL,
            registry=self.registry,
        )
        self._aborted = Counter(
            "pagewire:aborts",
            "Requests that were taken in and did not come to their end, by what ended them.",
            (*_MODEL, "cause"),
            registry=self.registry,
        )
        self._unauthenticated = Counter(
            "pagewire:auth_failures",
            "Calls that showed no key that is in force.",
            ("listener", "reason"),
            registry=self.registry,
        )
        for listener in ("public", "admin"):
            for reason in ("missing", "invalid"):
                self._unauthenticated.labels(listener, reason)
        for method, reason in product(WORK, _FAULTS):
            self._failed.labels(method, "INTERNAL", reason)
        self._total_s = self._seconds("e2e_request_latency", "From arrival to the end.")
        self._first_token_s = self._seconds("time_to_first_token", "From arrival to the first token.")
        self._queue_s = self._seconds(
            "request_queue_time", "From arrival to the beginning of the first step that ran it."
        )
        self._prefill_s = self._seconds(
            "request_prefill_time",
            "From the beginning of the first step to the first token.",
        )
        self._decode_s = self._seconds("request_decode_time", "From the first token to the end.")
        self._inference_s = self._seconds(
            "request_inference_time", "From the beginning of the first step to the end."
        )
        self._token_s = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a token after the first.",
            _TOKEN_SECONDS,
        )
        self._prompt_tokens = self._histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        self._generation_tokens = self._histogram(
            "vllm:request_generation_tokens", "Generated tokens of a request.", _TOKENS
        )
        self._params_n = self._histogram("vllm:request_params_n", "Choices that were asked for.", _CHOICES)
        self._params_max_tokens = self._histogram(
            "vllm:request_params_max_tokens", "Most tokens that a request may generate.", _TOKENS
        )

    def observe(self, end: CallEnd, model: str) -> None:
        """Count how a call to a server of this model ended."""
        if end.reason:
            self._failed.labels(end.method, end.code, end.reason).inc()
            self._observe_failed(end, (model, ENGINE))
        elif end.record.finish_reasons:
            self._observe_finished(end.record, end.seconds, (model, ENGINE))

    def begin_at_zero(self, model: str) -> None:
        """Show what has not happened yet to a model that is now served.

        Prometheus sees no increase where a series begins.
        """
        self._corrupted.labels(model, ENGINE)
        for reason in _REJECTIONS.values():
            self._rejected.labels(model, ENGINE, reason)
        for cause in _ABORT_CAUSES.values():
            self._aborted.labels(model, ENGINE, cause)

    def count_refusal(self, listener: str, reason: str) -> None:
        """Count a call that the gate of a listener kept out."""
        self._unauthenticated.labels(listener, reason).inc()

    def _observe_failed(self, end: CallEnd, model: tuple[str, str]) -> None:
        reason = end.reason
        if reason in _REJECTIONS:
            self._rejected.labels(*model, _REJECTIONS[reason]).inc()
        elif reason in _ABORT_CAUSES and end.is_work:
            self._aborted.labels(*model, _ABORT_CAUSES[reason]).inc()
        elif reason == "NUMERICAL_ERROR":
            self._corrupted.labels(*model).inc()

    def _observe_finished(self, record: RequestRecord, total_s: float, model: tuple[str, str]) -> None:
        for reason in record.finish_reasons:
            self._finished.labels(*model, _FINISHED_REASONS.get(reason, reason)).inc()
        self._total_s.labels(*model).observe(total_s)
        self._prompt_tokens.labels(*model).observe(record.num_prompt_tokens or 0)
        if record.num_choices is None or record.num_completion_tokens is None:
            return  # an embedding
        self._params_n.labels(*model).observe(record.num_choices)
        self._params_max_tokens.labels(*model).observe(record.max_tokens or 0)
        self._generation_tokens.labels(*model).observe(record.num_completion_tokens)
        if record.queue_s is None or record.first_token_s is None or record.total_s is None:
            return
        decode_s = record.total_s - record.first_token_s
        self._queue_s.labels(*model).observe(record.queue_s)
        self._first_token_s.labels(*model).observe(record.first_token_s)
        self._prefill_s.labels(*model).observe(record.first_token_s - record.queue_s)
        self._decode_s.labels(*model).observe(decode_s)
        self._inference_s.labels(*model).observe(record.total_s - record.queue_s)
        num_later = record.num_completion_tokens - record.num_choices
        if num_later > 0:
            self._token_s.labels(*model).observe(decode_s * record.num_choices / num_later)

    def _seconds(self, name: str, what: str) -> Histogram:
        return self._histogram(f"vllm:{name}_seconds", what, _SECONDS)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, what, _MODEL, buckets=buckets, registry=self.registry)

"""The spans of a call: made when it has ended, of what was noted. They hold no prompt and no output."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import grpc
from opentelemetry.trace import SpanKind, Status, StatusCode

from pagewire.v1 import inference_pb2
from watch.tracing import context_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from server.request_record import CallEnd, RequestRecord
    from watch.trace_context import TraceContext
    from watch.tracing import Tracing

    Settings = dict[str, str | int | float | bool | tuple[str, ...]]

PROVIDER = "pagewire"
SERVICE = "pagewire.v1.InferenceService"
# The statuses that are a server's fault, by OpenTelemetry's conventions.
_FAULTS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
_MAX_NAME_CHARS = 128
"""Of a model that a caller names, and that need not exist."""


class CallSpans:
    """Makes a span for each call that asks for work, and below it one for each phase in the engine."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def record(self, end: CallEnd) -> TraceContext | None:
        """Send a call's spans. Return the call's own one; of a call that has none, its caller's."""
        settings = _settings(end)
        if settings is None:
            return end.trace
        ended_ns = time.time_ns()
        began_ns = ended_ns - round(end.seconds * 1e9)
        name = f"{settings['gen_ai.operation.name']} {settings['gen_ai.request.model']}"
        span = self._tracing.start(name, end.trace, SpanKind.SERVER, settings | _outcome(end), began_ns)
        _set_status(span, end)
        context = context_of(span)
        if span.is_recording():
            phases = list(_phases(end))
            for phase, from_s, to_s in phases:
                child = self._tracing.start(phase, context, at_ns=began_ns + round(from_s * 1e9))
                if end.reason and phase == phases[-1].name:
                    child.set_attribute("error.type", end.reason)
                    _set_status(child, end)
                child.end(began_ns + round(to_s * 1e9))
        span.end(ended_ns)
        return context


def _set_status(span: Span, end: CallEnd) -> None:
    if end.code in _FAULTS:
        span.set_status(Status(StatusCode.ERROR, end.reason))


class _Phase(NamedTuple):
    """Times in seconds since arrival."""

    name: str
    from_s: float
    to_s: float


def _phases(end: CallEnd) -> Iterator[_Phase]:
    """The phases that a generation reached. A call that failed ended in the last of them."""
    record = end.record
    if not record.is_queued:
        return
    ended_s = end.seconds if record.total_s is None else record.total_s
    yield _Phase("queue", 0.0, ended_s if record.queue_s is None else record.queue_s)
    if record.queue_s is not None:
        yield _Phase(
            "prefill", record.queue_s, ended_s if record.first_token_s is None else record.first_token_s
        )
    if record.first_token_s is not None:
        yield _Phase("decode", record.first_token_s, ended_s)


def _settings(end: CallEnd) -> Settings | None:
    """What was asked for; None where it is not work for the model."""
    match end.request:
        case inference_pb2.GenerateRequest() | inference_pb2.StreamGenerateRequest():
            spec = end.request.spec
            operation = "chat" if spec.HasField("chat") else "text_completion"
            settings: Settings = {"gen_ai.request.stream": end.method == "StreamGenerate"}
            if spec.stopping.stop:
                settings["gen_ai.request.stop_sequences"] = tuple(spec.stopping.stop)
            settings |= _sampling(end.record)
            model = spec.adapter or spec.model
        case inference_pb2.EmbedRequest():
            operation, settings, model = "embeddings", {}, end.request.model
        case _:
            return None
    return settings | {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": (model or end.record.model)[:_MAX_NAME_CHARS],
    }


def _sampling(record: RequestRecord) -> Settings:
    """The values in force, known once the request was taken in."""
    sampling = record.sampling
    if sampling is None:
        return {}
    return {
        "gen_ai.request.max_tokens": record.max_tokens or 0,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": sampling.n,
    }


def _outcome(end: CallEnd) -> Settings:
    record = end.record
    values: dict[str, str | int | float | tuple[str, ...] | None] = {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": end.method,
        "rpc.grpc.status_code": grpc.StatusCode[end.code].value[0],
        "error.type": end.reason or None,
        "gen_ai.response.id": end.request_id,
        "gen_ai.response.model": record.model or None,
        "gen_ai.response.finish_reasons": record.finish_reasons or None,
        "gen_ai.response.time_to_first_chunk": record.first_token_s,
        "gen_ai.usage.input_tokens": record.num_prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.num_cached_tokens,
        "gen_ai.usage.output_tokens": record.num_completion_tokens,
    }
    return {name: value for name, value in values.items() if value is not None}

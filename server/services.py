"""All services over one engine, and the handlers that serve them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from pagewire.v1 import admin_pb2, inference_pb2, models_pb2
from server.adapters import Adapters
from server.admin_service import AdminService
from server.admission import Admission
from server.engine_collector import EngineCollector
from server.fair_threads import FairThreads
from server.grammar_checker import GrammarChecker
from server.health import Health
from server.metrics import Metrics
from server.model_service import ModelService
from server.readiness import Readiness
from server.request_log import log_end
from server.rpc import WRITE_TIMEOUT_S, generic_handler
from server.service import InferenceService
from server.template_renderer import TemplateRenderer
from server.tenants import EQUAL_TENANTS
from server.tracebacks import Tracebacks
from watch.loop_lag import LoopLag

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc
    from google.protobuf.descriptor import ServiceDescriptor

    from server.call_spans import CallSpans
    from server.engine import Engine
    from server.request_record import CallEnd
    from server.served_model import Adapter, ModelSlot, ServedModel
    from server.tenants import Tenants
    from watch.tracing import Tracing

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
MODELS = models_pb2.DESCRIPTOR.services_by_name["ModelService"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]


class Services:
    """Builds the services; what is public here is for who starts and stops it all."""

    def __init__(
        self,
        engine: Engine,
        models: ModelSlot,
        *,
        max_queued_requests: int,
        max_logprobs: int,
        max_adapters: int = 0,
        max_loras: int = 0,
        tenants: Tenants = EQUAL_TENANTS,
        queue_timeout_s: float | None = None,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        traces_endpoint: str | None = None,
    ) -> None:
        """Build them.

        Args:
            engine: runs the sequences.
            models: the served model, once it is loaded.
            max_queued_requests: requests that may wait.
            max_logprobs: alternatives that a request may ask for.
            max_adapters: LoRA adapters in memory at once.
            max_loras: those that may take part in one step.
            tenants: their shares and limits.
            queue_timeout_s: how long requests wait that do not say so themselves.
            write_timeout_s: how long a stream may go unread.
            traces_endpoint: where spans are sent. None: there are none.
        """
        self.metrics = Metrics()
        self._slot = models
        self._lag = LoopLag()
        self._tracebacks = Tracebacks()
        self._tracing, self._spans = _make_spans(traces_endpoint)
        self.readiness = Readiness(engine, models)
        self.admission = Admission(self.readiness, max_queued_requests, tenants)
        self._write_timeout_s = write_timeout_s
        self.templates = TemplateRenderer()
        self._grammars = GrammarChecker()
        # two kinds of them, or no prompt would be encoded while texts are counted for those who just ask
        self._prompt_threads = FairThreads("prompts", min(4, os.cpu_count() or 1))
        self._question_threads = FairThreads("questions", 1)
        self.adapters = Adapters(engine, models, max_adapters)
        self._inference = InferenceService(
            engine,
            self.adapters,
            self.admission,
            self._prompt_threads,
            self.templates,
            self._grammars,
            max_logprobs,
            tenants,
            queue_timeout_s,
        )
        self._models = ModelService(models, self.admission, self.templates, self._question_threads)
        self._admin = AdminService(engine, self.adapters, self.admission, self.readiness)
        # two of them, or strangers could take all places from operators
        self._public_health, self._admin_health = (
            Health([INFERENCE.full_name, MODELS.full_name], self.readiness) for _ in range(2)
        )
        collector = EngineCollector(
            engine, models, self.admission, self.readiness, self._grammars, self._lag, max_loras
        )
        self.metrics.registry.register(collector)

    def announce(self, model: ServedModel, adapters: Sequence[Adapter] = ()) -> None:
        """Serve this model from now on, alone and with each of these adapters."""
        self.metrics.begin_at_zero(model.name)
        self._slot.put(model, adapters)
        self.readiness.refresh()

    async def close(self) -> None:
        """End the processes that the services have started, and send the last spans."""
        self._lag.close()
        await self.templates.aclose()
        await self._grammars.close()
        await self._question_threads.aclose()
        await self._prompt_threads.aclose()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def public_handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers of the public listener."""
        return [
            self._handler(INFERENCE, self._inference),
            self._handler(MODELS, self._models),
            self._handler(HEALTH, self._public_health),
        ]

    def admin_handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers of the operators' listener."""
        return [
            self._handler(ADMIN, self._admin),
            self._handler(HEALTH, self._admin_health),
        ]

    def _handler(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        return generic_handler(service, servicer, self._write_timeout_s, self._note_end)

    def _note_end(self, end: CallEnd) -> None:
        if self._spans is not None:
            end = replace(end, trace=self._spans.record(end))
        log_end(end, self._tracebacks)
        self.metrics.observe(end, self._slot.get().name if self._slot.is_loaded else "")


def _make_spans(endpoint: str | None) -> tuple[Tracing | None, CallSpans | None]:
    if endpoint is None:
        return None, None
    # the packages that these need are an extra
    from server.call_spans import CallSpans
    from watch.tracing import open_tracing

    tracing = open_tracing(endpoint, "pagewire-server")
    return tracing, CallSpans(tracing)

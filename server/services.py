"""All services over one engine, and the handlers that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from pagewire.v1 import admin_pb2, inference_pb2, models_pb2
from server.adapters import Adapters
from server.admin_service import AdminService
from server.admission import Admission
from server.engine_collector import EngineCollector
from server.grammar_checker import GrammarChecker
from server.health import Health
from server.metrics import Metrics
from server.model_service import ModelService
from server.readiness import Readiness
from server.request_log import log_end
from server.rpc import WRITE_TIMEOUT_S, generic_handler
from server.service import InferenceService
from server.template_renderer import TemplateRenderer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    import grpc
    from google.protobuf.descriptor import ServiceDescriptor

    from server.engine import Engine
    from server.request_record import CallEnd
    from server.served_model import ModelSlot

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
        executor: Executor,
        *,
        max_queued_requests: int,
        max_logprobs: int,
        max_adapters: int = 0,
        max_loras: int = 0,
        max_requests_per_tenant: int | None = None,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        """`executor` runs what takes CPU time. `max_loras` of `max_adapters` may take part in one step."""
        self.metrics = Metrics()
        self._slot = models
        self.readiness = Readiness(engine, models)
        self.admission = Admission(self.readiness, max_queued_requests, max_requests_per_tenant)
        self._write_timeout_s = write_timeout_s
        self.templates = TemplateRenderer()
        self._grammars = GrammarChecker()
        self.adapters = Adapters(engine, models, max_adapters)
        self._inference = InferenceService(
            engine, self.adapters, self.admission, executor, self.templates, self._grammars, max_logprobs
        )
        self._models = ModelService(models, self.templates, executor)
        self._admin = AdminService(engine, self.adapters, self.admission, self.readiness)
        self._health = Health([INFERENCE.full_name, MODELS.full_name], self.readiness)
        collector = EngineCollector(engine, models, self.admission, self.readiness, self._grammars, max_loras)
        self.metrics.registry.register(collector)

    async def close(self) -> None:
        """End the processes that the services have started."""
        await self.templates.aclose()
        await self._grammars.close()

    def public_handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers of the public listener."""
        return [
            self._handler(INFERENCE, self._inference),
            self._handler(MODELS, self._models),
            self._handler(HEALTH, self._health),
        ]

    def admin_handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers of the operators' listener."""
        return [
            self._handler(ADMIN, self._admin),
            self._handler(HEALTH, self._health),
        ]

    def _handler(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        return generic_handler(service, servicer, self._write_timeout_s, self._note_end)

    def _note_end(self, end: CallEnd) -> None:
        log_end(end)
        self.metrics.observe(end, self._slot.get().name if self._slot.is_loaded else "")

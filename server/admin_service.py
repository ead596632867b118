"""AdminService: for operators, on a listener of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2, timestamp_pb2

from pagewire.v1 import admin_pb2
from server.errors import AbortedByOperatorError, NotFoundError, RequestLostError
from server.fields import Fields, invalid, shown

if TYPE_CHECKING:
    from server.adapters import Adapters
    from server.admission import Admission
    from server.engine import Engine
    from server.readiness import Readiness
    from server.rpc import Call
    from server.served_model import Adapter
    from server.step_totals import StepTotals

DEFAULT_DRAIN_S = 30.0


class AdminService:
    """Watches and steers the server."""

    def __init__(
        self, engine: Engine, adapters: Adapters, admission: Admission, readiness: Readiness
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._admission = admission
        self._readiness = readiness
        self._started_s = time.time()

    async def get_stats(self, request: admin_pb2.GetStatsRequest, call: Call) -> admin_pb2.GetStatsResponse:
        """Return the engine's counters and whether requests are accepted."""
        stats, reason = self._engine.stats, self._readiness.not_ready_reason
        started = timestamp_pb2.Timestamp()
        started.FromMilliseconds(int(self._started_s * 1000))
        engine = admin_pb2.EngineStats(**{name: getattr(stats, name) for name in stats.__struct_fields__})
        age_s = self._engine.last_step_age_s
        if age_s is not None:
            engine.last_step_age.CopyFrom(_duration(age_s))
        return admin_pb2.GetStatsResponse(
            engine=engine,
            num_engine_restarts=sum(self._engine.restarts.values()),
            started=started,
            ready=reason is None,
            not_ready_reason=reason or "",
            step_times=_step_times(self._engine.steps),
        )

    async def abort_request(
        self, request: admin_pb2.AbortRequestRequest, call: Call
    ) -> admin_pb2.AbortRequestResponse:
        """End a request; its caller gets CANCELLED."""
        error = AbortedByOperatorError("an operator ended the request")
        if not self._admission.end(request.request_id, error):
            raise NotFoundError("REQUEST_NOT_FOUND", f"no request {shown(request.request_id)} is live")
        return admin_pb2.AbortRequestResponse()

    async def drain(self, request: admin_pb2.DrainRequest, call: Call) -> admin_pb2.DrainResponse:
        """Refuse new requests and wait for the live ones."""
        timeout_s = DEFAULT_DRAIN_S
        if request.HasField("timeout"):
            timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
            if timeout_s < 0:
                raise invalid("timeout", f"{timeout_s:g} s; expected at least 0")
        self._readiness.refuse_new()
        error = RequestLostError("the server is draining")
        return admin_pb2.DrainResponse(num_aborted=await self._admission.drain(timeout_s, error))

    async def load_adapter(
        self, request: admin_pb2.LoadAdapterRequest, call: Call
    ) -> admin_pb2.LoadAdapterResponse:
        """Load a LoRA adapter and serve it by name."""
        fields = Fields()
        fields.require(bool(request.name), "name", "is needed")
        fields.require(bool(request.path), "path", "is needed")
        fields.check()
        adapter = await self._adapters.load(request.name, request.path, replace=request.replace)
        return admin_pb2.LoadAdapterResponse(adapter=_described(adapter))

    async def unload_adapter(
        self, request: admin_pb2.UnloadAdapterRequest, call: Call
    ) -> admin_pb2.UnloadAdapterResponse:
        """Refuse new requests for an adapter, wait for the running ones, and forget it."""
        await self._adapters.unload(request.name)
        return admin_pb2.UnloadAdapterResponse()

    async def list_adapters(
        self, request: admin_pb2.ListAdaptersRequest, call: Call
    ) -> admin_pb2.ListAdaptersResponse:
        """List the loaded adapters."""
        return admin_pb2.ListAdaptersResponse(adapters=map(_described, self._adapters.all))

    async def reset_prefix_cache(
        self, request: admin_pb2.ResetPrefixCacheRequest, call: Call
    ) -> admin_pb2.ResetPrefixCacheResponse:
        """Forget all cached prefixes that no running request holds."""
        self._engine.reset_prefix_cache()
        return admin_pb2.ResetPrefixCacheResponse()


def _step_times(steps: StepTotals) -> admin_pb2.StepTimes:
    busy = None if steps.busy_s is None else _duration(steps.busy_s)
    return admin_pb2.StepTimes(host=_duration(steps.host_s), wait=_duration(steps.device_s), device_busy=busy)


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _described(adapter: Adapter) -> admin_pb2.Adapter:
    return admin_pb2.Adapter(name=adapter.name, path=adapter.path, rank=adapter.rank)

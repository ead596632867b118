"""grpc.health.v1: whether requests are welcome, for the server as a whole and for each service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from server.errors import NotFoundError
from server.fields import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from server.rpc import Call


class Health:
    """All services are ready together, because they need the same engine."""

    def __init__(self, services: Sequence[str], not_ready_reason: Callable[[], str | None]) -> None:
        self._services = ("", *services)
        self._not_ready_reason = not_ready_reason
        self._changed = asyncio.Event()

    def refresh(self) -> None:
        """Tell the watchers that readiness may have changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        """Say whether a service is ready."""
        if request.service not in self._services:
            raise NotFoundError("SERVICE_NOT_FOUND", f"no service {shown(request.service)}")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def list(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """Say it of every service."""
        response = health_pb2.HealthCheckResponse(status=self._status())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, response))

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """Say it now and whenever it changes."""
        known = request.service in self._services
        sent = None
        while True:
            changed = self._changed  # taken before the status is read, so that no change is missed
            status = self._status() if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != sent:
                await call.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def _status(self) -> int:
        ready = self._not_ready_reason() is None
        response = health_pb2.HealthCheckResponse
        return int(response.SERVING if ready else response.NOT_SERVING)

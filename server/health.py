"""grpc.health.v1: whether requests are welcome, for the server as a whole and for each service.

The service "live" says that the process itself works, whatever its engine does: for probes that kill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from pagewire.health import LIVE
from server.errors import NotFoundError, TooManyWatchesError
from server.fields import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.readiness import Readiness
    from server.rpc import Call

NOT_READY_REASON = "pagewire-not-ready-reason"
"""Key of the trailing metadata of Check that says why the server is not ready."""

MAX_WATCHES = 1000
"""They need no key and stay for as long as they like; each holds ten to twenty kilobytes."""


class Health:
    """All services are ready together, because they need the same engine."""

    def __init__(self, services: Sequence[str], readiness: Readiness) -> None:
        self._services = ("", *services, LIVE)
        self._readiness = readiness
        self._num_watches = 0

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        """Say whether a service is ready."""
        if request.service not in self._services:
            raise NotFoundError("SERVICE_NOT_FOUND", f"no service {shown(request.service)}")
        reason = self._readiness.not_ready_reason
        if reason is not None and request.service != LIVE:
            call.say(NOT_READY_REASON, reason.encode("ascii", "replace").decode())
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def list(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """Say it of every service."""
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=self._status(service))
                for service in self._services
            }
        )

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """Say it now and whenever it changes.

        Raises:
            TooManyWatchesError: no more of these calls can be served.
        """
        if self._num_watches == MAX_WATCHES:
            raise TooManyWatchesError(f"{MAX_WATCHES} calls watch already; ask again by Check")
        self._num_watches += 1
        try:
            await self._tell(request, call)
        finally:
            self._num_watches -= 1

    async def _tell(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        known = request.service in self._services
        sent = None
        while True:
            changed = self._readiness.next_change
            status = (
                self._status(request.service) if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            )
            if status != sent:
                await call.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def _status(self, service: str) -> int:
        ready = service == LIVE or self._readiness.not_ready_reason is None
        response = health_pb2.HealthCheckResponse
        return int(response.SERVING if ready else response.NOT_SERVING)

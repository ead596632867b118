"""What logs, metrics and spans may say of a request. Its path and method hold whatever a caller likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Scope, Send

UNKNOWN = "unknown"
CLIENT_GONE = 499
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"))
PROBES = frozenset(
    (
        "/health",
        "/v1/health",
        "/health/live",
        "/health/ready",
        "/ping",
        "/metrics",
        "/load",
        "/version",
        "/console/stats",
    )
)
"""Asked again and again by those who only want to know whether we live."""


def route_of(scope: Scope) -> str:
    """The route of a request that was answered."""
    return getattr(scope.get("route"), "path", UNKNOWN)


def method_of(scope: Scope) -> str:
    """The method of a request, if it is one."""
    return scope["method"] if scope["method"] in METHODS else UNKNOWN


def note_broken(scope: Scope, status: int) -> None:
    """Note what broke a response off whose headers have been sent, as the status that it would have had."""
    scope.setdefault("state", {})["broken_by"] = status


def broken_by(scope: Scope) -> int | None:
    """Return the status that a response would have had that broke off after its headers; 499: client gone."""
    status: int | None = scope.get("state", {}).get("broken_by")
    return status


class NotedSend:
    """Sends a response, and notes its status; 499 until there is one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = CLIENT_GONE

    async def __call__(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

"""One log line for each HTTP request, at its end. It holds counts and times, never a prompt or an output."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from translator.request_facts import PROBES, NotedSend, broken_by, method_of, route_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("translator.requests")


@dataclass(slots=True)
class AccessRecord:
    """What is noted of one request while it is answered. What has not come about is None or empty."""

    model: str = ""
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_completion_tokens: int | None = None
    first_token_s: float | None = None
    """From the arrival of its first generation."""

    def add_prompt(self, model: str, num_tokens: int, num_cached: int | None = None) -> None:
        """The model server has taken in a prompt."""
        self.model = model
        self.num_prompt_tokens = (self.num_prompt_tokens or 0) + num_tokens
        if num_cached is not None:
            self.num_cached_tokens = (self.num_cached_tokens or 0) + num_cached

    def add_output(self, num_tokens: int, first_token_s: float | None) -> None:
        """A generation has ended, as it should or not."""
        self.num_completion_tokens = (self.num_completion_tokens or 0) + num_tokens
        if first_token_s is not None:
            self.first_token_s = min(first_token_s, self.first_token_s or first_token_s)


_current: ContextVar[AccessRecord] = ContextVar("access_record")


def current_record() -> AccessRecord:
    """Return the record of the request that is being answered here; one of nobody's, where there is none."""
    return _current.get(AccessRecord())


class AccessLogMiddleware:
    """Logs every request once its response has been sent, or its client has gone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        noted = NotedSend(send)
        record = AccessRecord()
        token = _current.set(record)
        try:
            await self._app(scope, receive, noted)
        finally:
            _current.reset(token)
            _log(scope, noted.status, time.monotonic() - began_s, record)


def _log(scope: Scope, status: int, seconds: float, record: AccessRecord) -> None:
    route = route_of(scope)
    level = logging.DEBUG if route in PROBES else logging.INFO
    if not logger.isEnabledFor(level):
        return
    state = scope["state"]
    fields: dict[str, Any] = {
        "request_id": state["request_id"],
        "trace_id": state.get("trace_id"),
        "peer": _peer(scope),
        "tenant": _tenant(state.get("owner", "")),
        "method": method_of(scope),
        "route": route,
        "status": status,
        "broken_by": broken_by(scope),
        "model": record.model or None,
        "prompt_tokens": record.num_prompt_tokens,
        "cached_tokens": record.num_cached_tokens,
        "completion_tokens": record.num_completion_tokens,
        "first_token_s": record.first_token_s and round(record.first_token_s, 6),
        "total_s": round(seconds, 6),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, "%s", _text(given), extra={"fields": given})


def _peer(scope: Scope) -> str | None:
    """The address that the request came from, with its port; of a proxy, where one stands between."""
    client = scope.get("client")
    if client is None:
        return None
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tenant(owner: str) -> str | None:
    """The tenant's name; an owner with a slash stands for an operator or for a caller's own key."""
    return None if not owner or owner.startswith("/") else owner


def _text(fields: dict[str, Any]) -> str:
    """The same for a person, who needs no more than what differs from line to line."""
    text = "{method} {route} {request_id} {status} after {total_s:.3f} s".format(**fields)
    if "broken_by" in fields:
        text += ", broken off by {broken_by}".format(**fields)
    if "prompt_tokens" in fields:
        text += ": {prompt_tokens} prompt tokens".format(**fields)
    if "cached_tokens" in fields:
        text += " ({cached_tokens} cached)".format(**fields)
    if "completion_tokens" in fields:
        text += ", {completion_tokens} generated".format(**fields)
    if "first_token_s" in fields:
        text += ", first after {first_token_s:.3f} s".format(**fields)
    return text

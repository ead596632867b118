"""What every request passes through on its way in and out."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from translator.error_bodies import error_body, is_anthropic
from translator.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("translator")

MAX_HEADERS = 256
MAX_HEADER_BYTES = 65_536

# Safe in a log line, a header and gRPC metadata.
_USABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Gives each request an id, the client's own where it is usable, and returns it in a header.

    When the request arrived is noted beside it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["arrived_s"] = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = (
                    (b"x-request-id", b"request-id") if is_anthropic(scope["path"]) else (b"x-request-id",)
                )
                final_id = state["request_id"].encode()  # the body may have named it
                ids = [(name, final_id) for name in names]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        await self._app(scope, receive, send_with_id)


class RequestLimitMiddleware:
    """Refuses requests that are too large, or whose length can be read in two ways."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._refusal(scope["headers"], scope["http_version"])
        if error is not None:
            await send_error(error, scope, send, close=error.status != 413)
            return
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_counted, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]], http_version: str) -> ApiError | None:
        num_bytes = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADERS or num_bytes > MAX_HEADER_BYTES:
            return ApiError(431, f"The headers exceed {MAX_HEADERS} lines or {MAX_HEADER_BYTES} bytes.")
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(name == b"transfer-encoding" for name, _ in headers):
            if lengths:
                return ApiError(400, "Content-Length and Transfer-Encoding exclude each other.")
            if http_version == "1.0":
                return ApiError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if lengths and int(lengths[0]) > self._max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"The request body exceeds {self._max_body_bytes} bytes.", code="request_too_large"
        )


class FaultMiddleware:
    """Logs a fault of ours that was answered, and keeps its connection.

    Starlette answers a fault and then raises it again; the server would close the connection unannounced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            await send(message)
            is_answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_noted)
        except Exception:
            if not is_answered:
                raise
            log.exception("request %s failed", scope["state"]["request_id"])


async def send_error(error: ApiError, scope: Scope, send: Send, *, close: bool = False) -> None:
    """Answer with an error, and close the connection after it if its framing is not to be trusted."""
    body = error_body(error, scope["state"]["request_id"], scope["path"])
    headers = [*error.headers().items(), ("content-length", str(len(body)))]
    if close:
        headers.append(("connection", "close"))
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
    )
    await send({"type": "http.response.body", "body": body})

"""HTTP/1.1 as uvicorn speaks it over h11, with limits that it lacks and OpenAI's errors."""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from translator.errors import ApiError
from translator.middleware import MAX_HEADER_BYTES

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp

    from translator.config import TranslatorConfig

MAX_CHUNKS = 65_536
WRITE_BUFFER_BYTES = 4096
"""More waits for no reader: its handler waits then, too. Chunks of a token take several times their bytes."""
_SHUTDOWN_S = 5
_REFUSALS = {
    413: f"The request body has more than {MAX_CHUNKS} chunks.",
    431: f"The request's target and headers exceed {MAX_HEADER_BYTES} bytes.",
}

Owed = Literal["headers", "body"]


class Http1Settings(uvicorn.Config):
    """uvicorn's settings, and the time limits of a connection."""

    def __init__(self, app: ASGIApp, config: TranslatorConfig) -> None:
        super().__init__(
            app,
            http=Http1Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=config.keep_alive_s,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        self.limits_s: dict[Owed, float] = {
            "headers": config.header_timeout_s,
            "body": config.body_timeout_s,
        }


class Http1Protocol(H11Protocol):
    """One connection. A client is cut that owes us bytes for too long while no handler waits for them."""

    def __init__(self, config: Http1Settings, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = _Connection(h11.SERVER, MAX_HEADER_BYTES)
        self._limits_s = config.limits_s
        self._watched: Owed | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on to the next request. A body that its handler did not read is still to come."""
        super().on_response_complete()
        if self._owed() == "body":
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it running after a reset

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, or too many, and close. Called while h11's error is handled."""
        fault = sys.exception()
        hint = fault.error_status_hint if isinstance(fault, h11.RemoteProtocolError) else 400
        status = hint if hint in _REFUSALS else 400
        error = ApiError(status, _REFUSALS.get(status, "The bytes received are not a valid HTTP request."))
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body, reason = error.body(request_id=""), HTTPStatus(status).phrase.encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _owed(self) -> Owed | None:
        """What the client has still to send, where no handler waits for it and sets a limit itself."""
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.IDLE:
            return "headers"
        is_answered = self.conn.our_state is h11.DONE
        return "body" if is_answered and self.conn.their_state is h11.SEND_BODY else None

    def _watch(self) -> None:
        """Run the timer of what is owed from when it is first owed, however much of it drips in."""
        owed = self._owed()
        if owed == self._watched:
            return
        self._stop_timer()
        if owed is not None:
            self._watched = owed
            self._timer = self.loop.call_later(self._limits_s[owed], self.transport.close)

    def _stop_timer(self) -> None:
        self._watched = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Connection(h11.Connection):
    """Refuses bodies in so many chunks that reading them costs far more than sending them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._num_chunks = 0

    def next_event(self) -> Any:
        """Return the next event, as h11 does."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self._num_chunks += 1
            if self._num_chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks", error_status_hint=413)
        return event

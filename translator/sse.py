"""Server-sent events: frames, and the response that writes them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from translator.errors import ApiError, internal_error
from translator.request_facts import CLIENT_GONE, note_broken
from translator.requests import disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Receive, Scope, Send

log = logging.getLogger("translator")

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
# Line ends to Unicode, though not to the event stream: some clients split at them.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

encode_json = msgspec.json.Encoder().encode


def encode_text(text: str) -> bytes:
    """Return text as a JSON string on one line."""
    encoded = encode_json(text)
    if len(encoded) == len(text) + 2:
        return encoded
    return encoded.decode().translate(_LINE_ENDS).encode()


def encode_event(kind: str, value: object) -> bytes:
    """Return the frame of a named event that holds a value as JSON."""
    encoded = encode_json(value)
    if not encoded.isascii():
        encoded = encoded.decode().translate(_LINE_ENDS).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encoded)


def _error_frame(error: ApiError, request_id: str) -> bytes:
    return b"data: " + error.body(request_id) + b"\n\n"


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What an API's streams hold beside the frames of a generation."""

    error: Callable[[ApiError, str], bytes]
    """Makes the last frame of a stream that fails, for the request of this id."""
    done: bytes
    """The last frame of a stream that does not."""
    keep_alive: bytes = b": keep-alive\n\n"


OPENAI_STREAM = StreamFormat(_error_frame, done=b"data: [DONE]\n\n")


class EventStream(Response):
    """Writes frames until they end, fail, or the client goes."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        close: Callable[[], None],
        request_id: str,
        keep_alive_s: float,
        stream_format: StreamFormat,
    ) -> None:
        """Prepare the response.

        Args:
            frames: whole frames, one write each. An ApiError from it becomes the last frame.
            close: called once in the end, however it comes.
            request_id: for errors.
            keep_alive_s: a sign of life is written after this much silence; 0 writes none.
            stream_format: what errors and signs of life look like.
        """
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._frames = frames
        self._close = close
        self._request_id = request_id
        self._keep_alive_s = keep_alive_s
        self._format = stream_format
        self._is_whole = False
        self._last_write_s = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the response."""
        tasks = [asyncio.create_task(self._write(scope, send)), asyncio.create_task(disconnected(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_whole:
                note_broken(scope, CLIENT_GONE)
        finally:
            self._close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._frames.aclose()
        if not tasks[0].cancelled():
            tasks[0].result()

    async def _write(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        keep_alive = asyncio.create_task(self._keep_alive(send)) if self._keep_alive_s > 0 else None
        try:
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                self._last_write_s = time.monotonic()
            last = b""
        except ApiError as error:
            note_broken(scope, error.status)
            last = self._format.error(error, self._request_id)
        except Exception:
            log.exception("request %s: a stream failed", self._request_id)
            fault = internal_error()
            note_broken(scope, fault.status)
            last = self._format.error(fault, self._request_id)
        finally:
            if keep_alive is not None:
                keep_alive.cancel()
        self._is_whole = True
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            silence_s = time.monotonic() - self._last_write_s
            if silence_s < self._keep_alive_s:
                await asyncio.sleep(self._keep_alive_s - silence_s)
                continue
            await send({"type": "http.response.body", "body": self._format.keep_alive, "more_body": True})
            self._last_write_s = time.monotonic()

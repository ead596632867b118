"""The two doors of a server as a benchmark uses them: one request in, the times of its tokens out."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import urllib.parse
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import h11

from cli.health import SCHEMES
from cli.keys import key_header
from cli.tls import client_credentials, https_context
from pagewire import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from cli.workload import PlannedRequest

TIMEOUT_S = 900.0
_READ_BYTES = 1 << 16


class DoorError(Exception):
    """A request was refused or cut; the text says how."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One request, as its caller saw it. Times are in seconds."""

    num_prompt_tokens: int
    num_output_tokens: int
    first_token_s: float
    """From sending to the first delta."""
    total_s: float
    gaps_s: list[float]
    """Between deltas."""

    @property
    def per_output_token_s(self) -> float:
        """Mean time of a token after the first delta."""
        return (self.total_s - self.first_token_s) / max(1, self.num_output_tokens - 1)


class Door(Protocol):
    """A way to a server."""

    async def generate(self, request: PlannedRequest, temperature: float) -> Timing:
        """Run one request to its end. Raises DoorError where it fails."""


class _Clock:
    """Notes when deltas arrive."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._first_s: float | None = None
        self._gaps_s: list[float] = []

    def tick(self) -> None:
        now = time.perf_counter()
        if self._first_s is None:
            self._first_s = now - self._start
        else:
            self._gaps_s.append(now - self._last)
        self._last = now

    def timing(self, num_prompt_tokens: int, num_output_tokens: int) -> Timing:
        if self._first_s is None:
            raise DoorError("the stream ended without a token")
        return Timing(
            num_prompt_tokens, num_output_tokens, self._first_s, self._last - self._start, self._gaps_s
        )


class GrpcDoor:
    """StreamGenerate, by the Python client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def generate(self, request: PlannedRequest, temperature: float) -> Timing:
        """See `Door`."""
        clock = _Clock()
        stream = self._client.stream(
            request.token_ids, max_tokens=request.output_len, ignore_eos=True, temperature=temperature
        )
        async with stream:
            async for event in stream:
                if event.HasField("delta"):
                    clock.tick()
        assert stream.finished is not None
        return clock.timing(len(request.token_ids), stream.finished.usage.num_completion_tokens)


class HttpDoor:
    """POST /v1/completions with `stream`, of any server that speaks OpenAI."""

    def __init__(
        self, base_url: str, model: str, api_key: str | None, context: ssl.SSLContext | None
    ) -> None:
        """`context` is for https:// and None for http://."""
        url = urllib.parse.urlsplit(base_url)
        self._host = url.hostname or "127.0.0.1"
        self._port = url.port or (80 if context is None else 443)
        self._context = context
        self._path = f"{url.path.rstrip('/')}/v1/completions"
        self._model = model
        self._headers = list(key_header(api_key).items())

    async def generate(self, request: PlannedRequest, temperature: float) -> Timing:
        """See `Door`."""
        body = json.dumps(
            {
                "model": self._model,
                "prompt": request.token_ids,
                "max_tokens": request.output_len,
                "temperature": temperature,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        clock, num_output_tokens = _Clock(), 0
        async with aclosing(self._events(body)) as events:
            async for event in events:
                if event.get("usage"):
                    num_output_tokens = event["usage"]["completion_tokens"]
                if event.get("choices"):
                    clock.tick()
        return clock.timing(len(request.token_ids), num_output_tokens)

    async def _events(self, body: bytes) -> AsyncGenerator[dict[str, dict[str, int]], None]:
        rest = b""
        async with aclosing(self._body(body)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise DoorError(str(event["error"]))
                        yield event

    async def _body(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the response. Its connection serves this request alone."""
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)
        try:
            connection = h11.Connection(h11.CLIENT)
            headers = [
                ("host", f"{self._host}:{self._port}"),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *self._headers,
            ]
            head = h11.Request(method="POST", target=self._path, headers=headers)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            status = 0
            while True:
                received = connection.next_event()
                match received:
                    case h11.NEED_DATA:
                        connection.receive_data(await reader.read(_READ_BYTES))
                    case h11.Response():
                        status = received.status_code
                    case h11.Data() if status == 200:
                        yield bytes(received.data)
                    case h11.Data():
                        raise DoorError(f"status {status}: {bytes(received.data).decode(errors='replace')}")
                    case _:
                        return
        except h11.RemoteProtocolError as error:
            raise DoorError(f"the connection was cut: {error}") from error
        finally:
            writer.close()


@asynccontextmanager
async def open_door(
    target: str, model: str, api_key: str | None = None, tls: Mapping[str, Path] | None = None
) -> AsyncGenerator[Door, None]:
    """Open a door: gRPC for HOST:PORT, HTTP for a URL. Used within one event loop.

    `tls` holds the values of the flags of `cli.tls.CLIENT_TLS`.
    """
    files = tls or {}
    if target.startswith(SCHEMES):
        context = (
            https_context(files) or ssl.create_default_context() if target.startswith("https://") else None
        )
        yield HttpDoor(target, model, api_key, context)
        return
    credentials = client_credentials(files)
    async with AsyncClient(target, api_key=api_key, timeout=TIMEOUT_S, credentials=credentials) as client:
        yield GrpcDoor(client)

"""Calls over HTTP, byte by byte, so that a caller can leave, break off and dawdle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
from soak.history import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from soak.history import Call
    from soak.oracle import Question

_DONE = "[DONE]"
_LINGER_AND_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class HttpDoor:
    """Where the translator is reached."""

    port: int
    model: str


def body_of(question: Question, model: str, *, streams: bool) -> dict[str, Any]:
    asked = {"messages": question.messages} if question.is_chat else {"prompt": question.prompt}
    return {
        **asked,
        "model": model,
        "max_tokens": question.num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": streams,
    }


async def ask_unary(door: HttpDoor, call: Call) -> None:
    async with _exchange(door, call, streams=False) as exchange:
        await exchange.read_head()
        content = b"".join([chunk async for chunk in exchange.chunks()])
        if exchange.status != 200:
            _refuse(call, exchange.status, content)
            return
        call.is_accepted = True
        choice = json.loads(content)["choices"][0]
        call.token_ids += choice["token_ids"]
        call.text = choice["message"]["content"] if "message" in choice else choice["text"]
        call.ends.append(choice["finish_reason"])
        call.outcome = Outcome.FINISHED


async def ask_stream(
    door: HttpDoor, call: Call, leaves_after: int | None = None, *, resets: bool = False
) -> None:
    """Read a stream, perhaps only so many of its frames; then leave in order, or with a reset."""
    async with _exchange(door, call, streams=True) as exchange:
        await exchange.read_head()
        if exchange.status != 200:
            _refuse(call, exchange.status, b"".join([chunk async for chunk in exchange.chunks()]))
            return
        call.is_accepted = True
        num_frames = 0
        has_mark = False
        async for frame in _frames(exchange):
            assert not has_mark, "a frame after the stream's end"
            has_mark = frame == _DONE
            if not has_mark:
                _take(call, json.loads(frame))
            num_frames += 1
            if num_frames == leaves_after:
                call.outcome = Outcome.LEFT
                if resets:
                    exchange.reset()
                return
        _conclude(call, has_mark)


async def dawdle(door: HttpDoor, call: Call, num_bytes: int) -> None:
    """Read one byte a second, then leave."""
    async with _exchange(door, call, streams=True) as exchange:
        for _ in range(num_bytes):
            await exchange.reader.read(1)
            await asyncio.sleep(1.0)
        exchange.reset()
    call.outcome = Outcome.LEFT


async def be_wrong(door: HttpDoor, call: Call) -> None:
    """Ask for what cannot be; nothing but 400 will do while the service is there."""
    async with _exchange(door, call, streams=False, temperature=-1) as exchange:
        await exchange.read_head()
        content = b"".join([chunk async for chunk in exchange.chunks()])
        assert exchange.status != 200, "a wrong request was served"
        _refuse(call, exchange.status, content)


def _take(call: Call, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        call.error = str(chunk["error"].get("code") or chunk["error"]["type"])
        call.ends.append("error")
        return
    for choice in chunk["choices"]:
        call.token_ids += choice.get("token_ids") or []
        call.text += choice.get("text", choice.get("delta", {}).get("content")) or ""
        if choice.get("finish_reason"):
            call.ends.append(choice["finish_reason"])


def _conclude(call: Call, has_mark: bool) -> None:
    has_error = "error" in call.ends
    if has_error and not has_mark:
        call.outcome = Outcome.FAILED
    elif call.ends and has_mark and not has_error:
        call.outcome = Outcome.FINISHED
    else:
        call.outcome = Outcome.BROKEN
        call.error = f"{call.ends} {'with' if has_mark else 'without'} {_DONE}"


def _refuse(call: Call, status: int, content: bytes) -> None:
    error = json.loads(content)["error"]
    call.error = f"{status} {error['code'] or error['type']}"
    call.ends.append("error")
    call.outcome = Outcome.EXPIRED if status == 504 else Outcome.REFUSED


class _Exchange:
    """One request and its response, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.status = 0
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, path: str, body: bytes) -> None:
        headers = [
            ("host", "soak"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        request = h11.Request(method="POST", target=path, headers=headers)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def read_head(self) -> None:
        event = await self._next()
        assert isinstance(event, h11.Response)
        self.status = event.status_code

    async def chunks(self) -> AsyncIterator[bytes]:
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            yield bytes(event.data)

    def reset(self) -> None:
        """Close so that the other side gets a reset."""
        one: socket.socket = self._writer.get_extra_info("socket")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_AND_RESET)

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.reader.read(65_536))
        return event


@contextlib.asynccontextmanager
async def _exchange(door: HttpDoor, call: Call, *, streams: bool, **more: Any) -> AsyncIterator[_Exchange]:
    """Send the question on a connection of its own, which is gone at the end."""
    path = "/v1/chat/completions" if call.question.is_chat else "/v1/completions"
    body = json.dumps(body_of(call.question, door.model, streams=streams) | more).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        exchange = _Exchange(reader, writer)
        await exchange.send(path, body)
        yield exchange
    finally:
        writer.transport.abort()


async def _frames(exchange: _Exchange) -> AsyncIterator[str]:
    """The data of each event; comments are dropped."""
    buffer = b""
    async for chunk in exchange.chunks():
        buffer += chunk
        *whole, buffer = buffer.split(b"\n\n")
        for frame in whole:
            if frame.startswith(b"data: "):
                yield frame.removeprefix(b"data: ").decode()

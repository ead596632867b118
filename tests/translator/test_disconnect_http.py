"""A client that leaves takes its gRPC call with it; a silent stream is kept alive."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_backend import BYE, delta, finished, serving, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_backend import House

    from pagewire.v1 import inference_pb2


async def waits_for_ever(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
    """Admits the request only if it is asked to stream."""
    if spec.model == "admits":
        yield started()
        yield delta("Hel")
    await asyncio.Event().wait()


def request_bytes(**fields: Any) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]} | fields).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.check("R07")
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("model", ["queued", "admits"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_leaving_cancels_the_call(stream: bool, model: str, reset: bool, house: House) -> None:
    house.servicer.script = waits_for_ever
    connection = socket.create_connection(("127.0.0.1", house.port), timeout=BYE)
    connection.sendall(request_bytes(stream=stream, model=model))
    assert house.servicer.entered.acquire(timeout=BYE)
    if stream and model == "admits":
        received = b""
        while b"Hel" not in received:
            received += connection.recv(4096)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert house.servicer.left.acquire(timeout=BYE)


def test_leaving_cancels_the_calls_of_all_prompts(house: House) -> None:
    house.servicer.script = waits_for_ever
    with httpx.Client(base_url=house.url) as http:
        body = {"prompt": ["a", "b", "c"], "model": "admits", "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            assert next(response.iter_raw())
    for _ in range(3):
        assert house.servicer.left.acquire(timeout=BYE)


def test_a_finished_call_ends_by_itself(house: House, http: httpx.Client) -> None:
    ends: list[bool] = []

    async def watches_its_end(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        context.add_done_callback(lambda call: ends.append(call.cancelled()))
        yield finished()

    house.servicer.script = watches_its_end
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert house.servicer.left.acquire(timeout=BYE)
    assert ends == [False, False]
    assert house.backend.num_running == 0


def test_comments_keep_a_silent_stream_alive() -> None:
    with serving(sse_keep_alive_s=0.05) as house:
        go_on: list[asyncio.Event] = []

        async def pauses(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            go_on.append(asyncio.Event())
            yield started()
            await go_on[0].wait()
            yield delta("x")
            yield finished()

        house.servicer.script = pauses
        with httpx.Client(base_url=house.url, timeout=BYE) as http:
            body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
            received = ""
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                for text in response.iter_text():
                    received += text
                    if received.count(": keep-alive\n\n") == 3:
                        house.call(set_event(go_on[0]))
        frames = received.split("\n\n")
        assert all(frame == "" or frame.startswith((": keep-alive", "data: ")) for frame in frames)
        assert received.endswith("data: [DONE]\n\n")


async def set_event(event: asyncio.Event) -> None:
    event.set()


def test_a_slow_reader_gets_everything(house: House) -> None:
    """The writer waits for the reader, and the pauses lose nothing."""

    async def talks(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        for index in range(3000):
            yield delta(f"{index:04}" * 1000)
        yield finished()

    house.servicer.script = talks
    with socket.create_connection(("127.0.0.1", house.port), timeout=BYE) as connection:
        connection.sendall(request_bytes(stream=True))
        assert house.servicer.entered.acquire(timeout=BYE)
        assert not house.servicer.left.acquire(timeout=0.2)  # it cannot end: nobody reads
        received = bytearray()
        while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            part = connection.recv(1 << 20)
            assert part
            received += part
    assert received.count(b'"content":"') == 3001

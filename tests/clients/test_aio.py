"""The asynchronous client against a real gRPC server."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from google.rpc import code_pb2
from scripted_server import INVALID, OVERLOADED, ScriptedServer, rich_failure

import pagewire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[pagewire.AsyncClient]:
    async with pagewire.AsyncClient(server.target, timeout=20) as client:
        yield client


async def cancelled(server: ScriptedServer) -> bool:
    return await asyncio.to_thread(server.script.cancelled.wait, 10)


async def test_generate_and_chat(server: ScriptedServer, client: pagewire.AsyncClient) -> None:
    response = await client.generate([1, 2, 3], seed=7, request_id="abc")
    assert response.choices[0].text == "Paris"
    assert server.script.spec.token_ids.ids == [1, 2, 3]
    assert server.script.spec.sampling.seed == 7
    assert server.script.metadata["x-request-id"] == "abc"
    assert server.script.time_remaining is not None
    await client.chat([{"role": "user", "content": "hi"}])
    assert server.script.spec.chat.messages[0].text == "hi"


async def test_stream(client: pagewire.AsyncClient) -> None:
    stream = client.stream("a")
    assert [text async for text in stream.texts()] == ["Pa", "ris"]
    assert stream.started is not None
    assert stream.finished is not None
    assert stream.finished.usage.num_completion_tokens == 2


async def test_closing_a_stream_cancels_the_call(
    server: ScriptedServer, client: pagewire.AsyncClient
) -> None:
    server.script.hold = True
    async with client.stream("a") as stream:
        await anext(stream)
    assert await cancelled(server)


async def test_dropping_a_stream_cancels_the_call(
    server: ScriptedServer, client: pagewire.AsyncClient
) -> None:
    server.script.hold = True
    async for _ in client.stream("a"):
        break
    gc.collect()
    assert await cancelled(server)


async def test_cancelling_the_task_cancels_the_call(
    server: ScriptedServer, client: pagewire.AsyncClient
) -> None:
    server.script.hold = True
    first = asyncio.Event()

    async def read() -> None:
        async for _ in client.stream("a").texts():
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cancelled(server)


async def test_errors_are_typed(server: ScriptedServer, client: pagewire.AsyncClient) -> None:
    server.script.fail = OVERLOADED
    with pytest.raises(pagewire.OverloadedError) as overloaded:
        await client.generate("a")
    assert overloaded.value.retry_after_s == 1.5
    assert overloaded.value.request_id == "request-7"
    server.script.fail = INVALID
    with pytest.raises(pagewire.InvalidRequestError) as invalid:
        await anext(client.stream("a"))
    assert invalid.value.violations[0].field == "spec.sampling.temperature"


async def test_an_operators_abort_is_a_typed_error(
    server: ScriptedServer, client: pagewire.AsyncClient
) -> None:
    server.script.fail = rich_failure(code_pb2.CANCELLED, "aborted by an operator")
    server.script.fail_after_start = True
    with pytest.raises(pagewire.RequestCancelledError, match="aborted by an operator"):
        async for _ in client.stream("a"):
            pass


async def test_the_deadline_is_the_calls(server: ScriptedServer, client: pagewire.AsyncClient) -> None:
    server.script.hold = True
    with pytest.raises(pagewire.DeadlineExceededError):
        async for _ in client.stream("a", timeout=0.2):
            pass


async def test_models_tokenizer_and_readiness(server: ScriptedServer, client: pagewire.AsyncClient) -> None:
    assert [model.name for model in await client.models()] == ["m"]
    assert await client.tokenize("hi") == [5, 6]
    assert await client.detokenize([5, 6]) == "hi"
    server.set_ready(False)
    assert not await client.is_ready()
    assert await client.is_live()

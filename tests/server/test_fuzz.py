"""Random bytes and random messages: each ends with a status that blames the caller, or with OK."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from fakes import END_ID, FakeEngine, saying, serve
from random_messages import random_bytes, random_message

from server.services import ADMIN, HEALTH, INFERENCE, MODELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor, MethodDescriptor

pytestmark = pytest.mark.check("S20")

EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
    # A random queue timeout may be too short for anything.
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # Adapters are off.
    grpc.StatusCode.FAILED_PRECONDITION,
}
# Watch has no end, and a server that drains refuses all that comes after.
ENDLESS = ("Watch", "Drain")
METHODS = {
    f"{service.full_name}/{method.name}": method
    for service in (INFERENCE, MODELS, HEALTH, ADMIN)
    for method in service.methods
    if method.name not in ENDLESS
}
NUM_AT_ONCE = 8
SOME, ALL_BYTES, ALL_MESSAGES = 200, 20_000, 5_000


async def call_all(method: MethodDescriptor, requests: list[bytes]) -> set[grpc.StatusCode]:
    """Send the requests to one server, which must be idle and well after them. Return how they ended."""
    codes: set[grpc.StatusCode] = set()
    async with serve(FakeEngine(saying(65, END_ID))) as server:
        target = server.admin_target if method.containing_service is ADMIN else server.target

        async def call_some(start: int) -> None:
            async with grpc.aio.insecure_channel(target) as channel:
                for request in requests[start::NUM_AT_ONCE]:
                    code = await code_of(channel, method, request)
                    assert code in EXPECTED, f"{code} for {request.hex()}"
                    codes.add(code)

        await asyncio.gather(*map(call_some, range(NUM_AT_ONCE)))
        await server.engine.until(num_live=0)
        assert server.services.admission.num_live == 0
    return codes


async def code_of(channel: grpc.aio.Channel, method: MethodDescriptor, request: bytes) -> grpc.StatusCode:
    name = f"/{method.containing_service.full_name}/{method.name}"
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(name)(request, timeout=100)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if method.server_streaming:
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    code: grpc.StatusCode = await call.code()
    return code


def messages(descriptor: Descriptor, random: Random) -> bytes:
    return random_message(descriptor, random).SerializeToString()


def requests_of(
    name: str, make: Callable[[Descriptor, Random], bytes], count: int
) -> tuple[MethodDescriptor, list[bytes]]:
    method, random = METHODS[name], Random(name)
    return method, [make(method.input_type, random) for _ in range(count)]


@pytest.mark.parametrize("name", METHODS)
async def test_random_bytes(name: str) -> None:
    codes = await call_all(*requests_of(name, random_bytes, SOME))
    assert grpc.StatusCode.INVALID_ARGUMENT in codes


@pytest.mark.parametrize("name", METHODS)
async def test_random_messages(name: str) -> None:
    await call_all(*requests_of(name, messages, SOME))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", METHODS)
async def test_many_random_bytes(name: str) -> None:
    await call_all(*requests_of(name, random_bytes, ALL_BYTES))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", METHODS)
async def test_many_random_messages(name: str) -> None:
    await call_all(*requests_of(name, messages, ALL_MESSAGES))


@pytest.mark.parametrize("name", [f"{MODELS.full_name}/Tokenize", f"{INFERENCE.full_name}/Generate"])
async def test_good_requests_are_among_the_random_ones(name: str) -> None:
    """Or the others would prove little."""
    assert grpc.StatusCode.OK in await call_all(*requests_of(name, messages, SOME))

"""Random bytes and random messages: each ends with a status that blames the caller, or with OK."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from fakes import END_ID, FakeEngine, saying, serve
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.services import HEALTH, INFERENCE, MODELS

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message
    from hypothesis.strategies import DataObject

EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    # A random queue timeout may be too short for anything.
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
METHODS = [
    method for service in (INFERENCE, MODELS, HEALTH) for method in service.methods if method.name != "Watch"
]
MAX_DEPTH = 4


async def codes_of(requests: list[tuple[MethodDescriptor, bytes]]) -> list[Any]:
    async with serve(FakeEngine(saying(65, END_ID))) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            codes = [await code_of(channel, method, request) for method, request in requests]
        assert server.engine.live == set()
        assert server.services.admission.num_live == 0
        return codes


async def code_of(channel: grpc.aio.Channel, method: MethodDescriptor, request: bytes) -> grpc.StatusCode:
    name = f"/{method.containing_service.full_name}/{method.name}"
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(name)(request, timeout=30)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if method.server_streaming:
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    code: grpc.StatusCode = await call.code()
    return code


NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from([-(2**31), -1, 0, 1, 2, 2**31 - 1]),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]),
    FieldDescriptor.CPPTYPE_UINT32: st.sampled_from([0, 1, 2, 65, 259, 260, 2**32 - 1]),
    FieldDescriptor.CPPTYPE_ENUM: st.sampled_from([-1, 0, 1, 2, 3, 99]),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32) | st.floats(0, 1, width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=8) | st.sampled_from(["", "{}", '{"a": [1]}', "user"]),
}


def value_of(field: FieldDescriptor, data: DataObject, depth: int) -> Any:
    if field.message_type is not None:
        return message_of(field.message_type, data, depth + 1)
    return data.draw(NUMBERS[field.cpp_type])


def message_of(descriptor: Descriptor, data: DataObject, depth: int = 0) -> Message:
    """A message with some of its fields set, each to some value of its type."""
    message = GetMessageClass(descriptor)()
    fields = [] if depth > MAX_DEPTH else list(descriptor.fields)
    for field in fields:
        if not data.draw(st.integers(0, 2)) and depth:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name).update(
                {data.draw(st.integers(0, 300)): data.draw(st.floats(width=32))}
            )
        elif field.is_repeated:
            values = [value_of(field, data, depth) for _ in range(data.draw(st.integers(0, 2)))]
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value_of(field, data, depth))
        else:
            setattr(message, field.name, value_of(field, data, depth))
    return message


fuzzing = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@fuzzing
@given(st.lists(st.tuples(st.sampled_from(METHODS), st.binary(max_size=64)), min_size=20, max_size=40))
def test_random_bytes(requests: list[tuple[MethodDescriptor, bytes]]) -> None:
    assert set(asyncio.run(codes_of(requests))) <= EXPECTED


@fuzzing
@given(st.data())
def test_random_messages(data: DataObject) -> None:
    requests = []
    for method in METHODS:
        message = message_of(method.input_type, data)
        requests.append((method, message.SerializeToString()))
    assert set(asyncio.run(codes_of(requests))) <= EXPECTED

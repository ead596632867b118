"""A client of a fake server, and what it makes of errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from fakes import FakeEngine, FakeServer, serve
from google.rpc import error_details_pb2, status_pb2

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Caller:
    """A client of one fake server."""

    def __init__(self, server: FakeServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.engine = server.engine
        self.channel = channel
        self._stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    def stream(self, spec: inference_pb2.GenerationSpec, **call: Any) -> Any:
        return self._stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec), **call)

    def generate(self, spec: inference_pb2.GenerationSpec, **call: Any) -> Any:
        return self._stub.Generate(inference_pb2.GenerateRequest(spec=spec), **call)


@contextlib.asynccontextmanager
async def calling(engine: FakeEngine, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a server over `engine`."""
    async with serve(engine, **settings) as server, grpc.aio.insecure_channel(server.target) as channel:
        yield Caller(server, channel)


async def status_of(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _to_end(call)
    return raised.value


async def _to_end(call: Any) -> None:
    if hasattr(call, "read"):
        while await call.read() is not grpc.aio.EOF:
            pass
    else:
        await call


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """google.rpc details by the name of their type."""
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    details = {}
    for packed in status.details:
        name = packed.TypeName().rsplit(".", 1)[1]
        details[name] = getattr(error_details_pb2, name)()
        packed.Unpack(details[name])
    return details

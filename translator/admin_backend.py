"""The gRPC server's AdminService as the translator sees it, where it may."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc

from pagewire.errors import REQUEST_ID_KEY
from pagewire.v1 import admin_pb2, admin_pb2_grpc
from translator.backend import BACKEND_OPTIONS, PROBE_TIMEOUT_S
from translator.caller import caller_metadata, key_metadata
from translator.errors import from_rpc_error
from translator.fields import Endpoint
from translator.own_key import OwnKey

if TYPE_CHECKING:
    from google.protobuf.message import Message

Asked = TypeVar("Asked", bound="Message")
Answered = TypeVar("Answered", bound="Message")
_FULL = "too_many_adapters"


class AdminBackend:
    """The channel to the operators' listener. Made within a running event loop."""

    def __init__(
        self,
        target: str,
        request_timeout_s: float,
        own_key: OwnKey | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`own_key` is the translator's; what callers ask for is done with theirs."""
        self._own_key = own_key or OwnKey()
        self._timeout_s = request_timeout_s
        self._channel = (
            grpc.aio.insecure_channel(target, options=BACKEND_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=BACKEND_OPTIONS)
        )
        self._admin: admin_pb2_grpc.AdminServiceAsyncStub = admin_pb2_grpc.AdminServiceStub(self._channel)

    async def get_stats(self, request_id: str) -> admin_pb2.GetStatsResponse:
        """Return the engine's counters and gauges.

        Raises:
            ApiError: the server is not there; 401: it does not take the translator's own key.
        """
        request, shown = admin_pb2.GetStatsRequest(), self._own_key.shown
        own = () if shown is None else (key_metadata(shown),)
        return await self._answer(
            self._admin.GetStats, request, request_id, Endpoint.BOTH, timeout_s=PROBE_TIMEOUT_S, own=own
        )

    async def load_adapter(
        self, request: admin_pb2.LoadAdapterRequest, request_id: str
    ) -> admin_pb2.LoadAdapterResponse:
        """Load a LoRA adapter.

        Raises:
            ApiError: it was refused, or the server is not there.
        """
        return await self._answer(self._admin.LoadAdapter, request, request_id, Endpoint.LOAD_ADAPTER)

    async def unload_adapter(
        self, request: admin_pb2.UnloadAdapterRequest, request_id: str
    ) -> admin_pb2.UnloadAdapterResponse:
        """Forget a LoRA adapter.

        Raises:
            ApiError: there is none of this name, or the server is not there.
        """
        return await self._answer(self._admin.UnloadAdapter, request, request_id, Endpoint.UNLOAD_ADAPTER)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _answer(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Asked, Answered],
        request: Asked,
        request_id: str,
        endpoint: Endpoint,
        *,
        timeout_s: float | None = None,
        own: tuple[tuple[str, str], ...] | None = None,
    ) -> Answered:
        metadata = caller_metadata(request_id) if own is None else ((REQUEST_ID_KEY, request_id), *own)
        try:
            return await method(request, timeout=timeout_s or self._timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            answer = from_rpc_error(error, endpoint)
            if answer.code == _FULL:
                answer.status = 400  # what is exhausted here is no request of this caller's
            raise answer from error

"""One Embed call to the gRPC server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from pagewire.operation import is_cancelled
from translator.access_log import current_record
from translator.errors import from_rpc_error

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from translator.errors import ApiError
    from translator.field import Endpoint


class EmbeddingCall:
    """A call that runs until its response is there. Cancelling who waits for it cancels it."""

    def __init__(
        self,
        call: grpc.aio.UnaryUnaryCall[inference_pb2.EmbedRequest, inference_pb2.EmbedResponse],
        endpoint: Endpoint,
    ) -> None:
        self._call = call
        self._endpoint = endpoint
        self._record = current_record()
        self._cut: ApiError | None = None

    async def response(self) -> inference_pb2.EmbedResponse:
        """Wait for the response.

        Raises:
            ApiError: the request was refused or failed.
        """
        try:
            response = await self._call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._endpoint) from error
        except asyncio.CancelledError:
            if self._cut is None or is_cancelled():
                raise
            raise self._cut from None
        self._record.add_prompt(response.model, response.num_prompt_tokens)
        return response

    def cut(self, error: ApiError) -> None:
        """End the call now; who waits for it gets this error, or the one before that ended it."""
        self._cut = self._cut or error
        self._call.cancel()

"""The gate of a gRPC listener: every call passes it before a byte of its request is read.

It stands before the table of methods, so that reflection, unknown methods and methods of tomorrow need a
key too.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from gate.credentials import bearer_secret
from server import errors
from server.peer import address_of
from server.request_id import METADATA_KEY, request_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from gate.key_ring import KeyRing

    Handler = grpc.RpcMethodHandler[Any, Any]
    OnRefusal = Callable[[str], None]

logger = logging.getLogger(__name__)

OPEN_SERVICE = "/grpc.health.v1.Health/"
AUTHORIZATION = "authorization"

caller_tenant: ContextVar[str] = ContextVar("caller_tenant", default="")
"""Whose key the call that is being served has shown. Empty where nobody needs one."""


class Gate(grpc.aio.ServerInterceptor):
    """Lets a call pass that shows a key of the ring; health is open to all."""

    def __init__(self, keys: KeyRing, on_refusal: OnRefusal = lambda _: None) -> None:
        """`on_refusal` hears what was wrong with a key that lets nobody in: "missing" or "invalid"."""
        self._keys = keys
        self._on_refusal = on_refusal

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, or one that refuses."""
        if handler_call_details.method.startswith(OPEN_SERVICE):
            return await continuation(handler_call_details)
        secret = _secret_of(handler_call_details.invocation_metadata or ())
        tenant = self._keys.tenant_of(secret)
        if tenant is None:
            self._on_refusal("missing" if secret is None else "invalid")
            # Of a stream, because such a handler is called before there is a request.
            return grpc.stream_stream_rpc_method_handler(_refuse)
        caller_tenant.set(tenant)
        return await continuation(handler_call_details)


def _secret_of(metadata: Iterable[tuple[str, str | bytes]]) -> bytes | None:
    values = [value for key, value in metadata if key == AUTHORIZATION]
    return bearer_secret([value if isinstance(value, bytes) else value.encode() for value in values])


async def _refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    request_id, peer = request_id_of(context.invocation_metadata()), address_of(context.peer())
    error = errors.UnauthenticatedError("the API key is missing or not valid")
    status = errors.status_of(error, request_id)
    fields = {"request_id": request_id, "peer": peer, "status": status.code.name, "reason": status.reason}
    text = "%s from %s refused: it shows no key that is in force"
    logger.info(text, request_id, peer, extra={"fields": fields})
    trailing = ((METADATA_KEY, request_id), (errors.STATUS_DETAILS_KEY, status.details))
    await context.abort(status.code, status.message, trailing)

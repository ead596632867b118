"""The border between grpc.aio and our services: bytes and exceptions in, messages and statuses out.

grpc.aio answers a request that it cannot parse, and an exception that it does not know, with UNKNOWN
and the exception's text; and it never answers a handler that ends with a stray `CancelledError`.
Here every call is parsed and watched over by ourselves, so each ends with a status of our table.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from pagewire.operation import begin
from server import errors
from server.front_call import FrontCall
from server.gate import caller_tenant
from server.peer import address_of
from server.request_id import METADATA_KEY, request_id_of
from server.request_log import log_end
from server.request_record import CALLER_GONE, DEADLINE_PASSED, CallEnd, RequestRecord
from watch.trace_context import trace_context_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from server.front_messages import Metadata

    Method = Callable[[Any, "Call"], Awaitable[Message | None]]
    Context = grpc.aio.ServicerContext[bytes, Message] | FrontCall
    OnEnd = Callable[[CallEnd], None]

WRITE_TIMEOUT_S = 30.0
STALLED_AFTER_S = 1.0
"""A write that takes longer waits for its reader."""
_ABORT_TIMEOUT_S = 1.0


class Call:
    """One RPC that is being served."""

    def __init__(self, context: Context, write_timeout_s: float) -> None:
        self.request_id = request_id_of(context.invocation_metadata())
        self.arrived_s = time.monotonic()
        remaining_s: float | None = context.time_remaining()
        self.deadline_s = None if remaining_s is None else self.arrived_s + remaining_s
        """When the caller gives up, on the clock of `time.monotonic`."""
        self.tenant = caller_tenant.get()
        self.peer = address_of(context.peer())
        self.record = RequestRecord()
        self.request: Message | None = None
        self.trace = trace_context_of(context.invocation_metadata())
        self._writes_since_s: float | None = None
        self._context = context
        self._opening: asyncio.Future[None] | None = None
        self._write_timeout_s = write_timeout_s
        self._write_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._written: asyncio.Future[None] = self._loop.create_future()
        self._task = asyncio.current_task()
        self._error: Exception | None = None

    async def write(self, message: Message) -> None:
        """Send one message of a stream, waiting while the transport is full.

        A caller who does not read for too long has the call ended.
        """
        self._writes_since_s = time.monotonic()
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(self._write_timeout_s, self._look_at_write)
        try:
            self._written = begin(
                self._open(message) if self._opening is None else self._context.write(message)
            )
            await self._written
        finally:
            self._writes_since_s = None

    def close(self) -> None:
        """Watch no more. Whoever serves the call says so in the end."""
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _open(self, message: Message) -> Awaitable[None]:
        """Send the first message. Headers go with it."""
        self._opening = self._loop.create_future()
        return _open(self._context, message, self._opening)

    def _look_at_write(self) -> None:
        """End the call if a write takes too long. One timer watches all its writes, one after the other."""
        self._write_timer = None
        if self._writes_since_s is None or self._written.done():
            return
        remaining_s = self._writes_since_s + self._write_timeout_s - time.monotonic()
        if remaining_s > 0:
            self._write_timer = self._loop.call_later(remaining_s, self._look_at_write)
            return
        text = f"the stream was not read for {self._write_timeout_s:g} seconds"
        self.end(errors.SlowReaderError(text))

    def abort(self, code: grpc.StatusCode, message: str, trailing: Metadata) -> asyncio.Future[None]:
        """Send a status behind what is on its way, however late that is read and whoever waits for it here.

        The future raises grpc.aio.AbortError once the status is sent.
        """
        # A front keeps the order itself.
        opening = None if isinstance(self._context, FrontCall) else self._opening
        return begin(_abort(self._context, opening, code, message, trailing))

    def say(self, key: str, text: str) -> None:
        """Send a text beside the answer, in the trailing metadata."""
        self._context.set_trailing_metadata(((METADATA_KEY, self.request_id), (key, text)))

    def end(self, error: Exception) -> None:
        """End the call from outside its handler. The first error counts."""
        if self._error is None:
            self._error = error
            assert self._task is not None
            self._task.cancel()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back when the RPC is over, however it ends."""
        callbacks = [callback]  # gRPC keeps what it has called, until the status is read
        self._context.add_done_callback(lambda _: callbacks.pop()())  # type: ignore[arg-type] # a wrong stub

    @property
    def is_stalled(self) -> bool:
        """Whether the caller has not read for a while. Any thread may ask."""
        since_s = self._writes_since_s
        return since_s is not None and time.monotonic() - since_s > STALLED_AFTER_S

    @property
    def is_past_deadline(self) -> bool:
        """Whether the caller, who has gone, had no time left.

        Its own clock says so earlier than ours: gRPC sends the timeout rounded up by a percent, or in few
        bytes one that it sent before, up to three percent longer.
        """
        remaining_s = self._context.time_remaining()
        elapsed_s = time.monotonic() - self.arrived_s
        return remaining_s is not None and remaining_s <= 0.04 * elapsed_s + 0.02

    @property
    def is_abandoned(self) -> bool:
        """Whether gRPC has cancelled the handler: the RPC is over, and nobody hears an answer."""
        assert self._task is not None
        return self._error is None and self._task.cancelling() > 0

    def error_for(self, raised: BaseException) -> BaseException:
        """The error that a raised exception stands for."""
        ended_from_outside = isinstance(raised, asyncio.CancelledError) and self._error is not None
        return self._error if ended_from_outside and self._error is not None else raised


async def _open(context: Context, message: Message, opening: asyncio.Future[None]) -> None:
    """Send the first message. What waits for its reader holds no `Call`."""
    try:
        await context.write(message)
    except grpc.aio.BaseError:
        opening.cancel()  # the RPC is over
        raise
    finally:
        if not opening.done():
            opening.set_result(None)


async def _abort(
    context: Context,
    opening: asyncio.Future[None] | None,
    code: grpc.StatusCode,
    message: str,
    trailing: Metadata,
) -> None:
    """Send a status, once the headers are out: until then gRPC takes none."""
    if opening is not None:
        await opening
    await context.abort(code, message, trailing)


def generic_handler(
    service: ServiceDescriptor,
    servicer: object,
    write_timeout_s: float = WRITE_TIMEOUT_S,
    on_end: OnEnd = log_end,
) -> grpc.GenericRpcHandler:
    """Return a handler that serves each method of `service` by the servicer's method of that name.

    The servicer's methods are named in snake case and take a request and a `Call`. Those of unary RPCs
    return the response; those of streams write their responses and return nothing. `on_end` hears of each
    call once, when it has been answered.
    """
    handlers = {
        method.name: _method_handler(
            method, getattr(servicer, _snake_case(method.name)), write_timeout_s, on_end
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _method_handler(
    descriptor: MethodDescriptor, method: Method, write_timeout_s: float, on_end: OnEnd
) -> grpc.RpcMethodHandler[bytes, Message]:
    parse = GetMessageClass(descriptor.input_type).FromString
    serialize = GetMessageClass(descriptor.output_type).SerializeToString

    async def serve(request_bytes: bytes, context: Context) -> Message | None:
        call = Call(context, write_timeout_s)
        context.set_trailing_metadata(((METADATA_KEY, call.request_id),))
        try:
            call.request = _parse(parse, request_bytes)
            response = await method(call.request, call)
        except (Exception, asyncio.CancelledError) as raised:
            await _answer(descriptor.name, call, raised, on_end)
            raise asyncio.CancelledError from raised
        finally:
            call.close()
        on_end(_end(descriptor.name, call))
        return response

    make = (
        grpc.unary_stream_rpc_method_handler
        if descriptor.server_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(serve, request_deserializer=None, response_serializer=serialize)


def _parse(parse: Callable[[bytes], Message], request_bytes: bytes) -> Message:
    try:
        return parse(request_bytes)
    except DecodeError as error:
        violation = errors.Violation("", "the bytes are not a message of this method's request type")
        raise errors.InvalidRequestError([violation]) from error


async def _answer(name: str, call: Call, raised: BaseException, on_end: OnEnd) -> None:
    """Send the status that `raised` stands for. Raises AbortError once it is sent, else returns."""
    if call.is_abandoned:
        # A status that is sent all the same costs memory of gRPC's, for good.
        on_end(_end_of_abandoned(name, call))
        return
    error = call.error_for(raised)
    status = errors.status_of(error, call.request_id)
    trailing: Metadata = ((METADATA_KEY, call.request_id), (errors.STATUS_DETAILS_KEY, status.details))
    if status.retry_delay_s is not None:
        trailing += (("grpc-retry-pushback-ms", str(status.retry_delay_s * 1000)),)
    end = _end(name, call, status.code, status.reason, None if errors.is_expected(error) else error)
    try:
        async with asyncio.timeout(_ABORT_TIMEOUT_S):
            await call.abort(status.code, status.message, trailing)
    except grpc.aio.AbortError:
        on_end(end)
        raise
    except TimeoutError:
        # The reader has stopped; the status waits, without us, behind the messages that it did not read.
        on_end(end)
    except (grpc.aio.BaseError, asyncio.CancelledError):
        on_end(_end_of_abandoned(name, call))


def _end_of_abandoned(name: str, call: Call) -> CallEnd:
    if call.is_past_deadline:
        return _end(name, call, grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_PASSED)
    return _end(name, call, grpc.StatusCode.CANCELLED, CALLER_GONE)


def _end(
    name: str,
    call: Call,
    code: grpc.StatusCode = grpc.StatusCode.OK,
    reason: str = "",
    fault: BaseException | None = None,
) -> CallEnd:
    seconds = time.monotonic() - call.arrived_s
    return CallEnd(
        name,
        call.request_id,
        call.tenant,
        code.name,
        reason,
        seconds,
        call.record,
        fault,
        call.request,
        call.trace,
        call.peer,
    )
